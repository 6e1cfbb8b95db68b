"""What ShellWeGo costs, measured beside its bare or peer twin in the same run (`make bench`)."""
