import os

from flask import Flask

app = Flask(__name__)
VERSION = os.environ.get("VERSION", "1")


@app.get("/")
def home():
    return f"Hello from Flask, version {VERSION}\n"


@app.get("/health")
def health():
    return {"status": "ok", "version": VERSION}
