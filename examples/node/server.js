const http = require("node:http");
const ms = require("ms");

const version = process.env.VERSION || "1";
const port = Number(process.env.PORT || 8080);
const started = Date.now();

const server = http.createServer((request, response) => {
  if (request.url === "/health") {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ status: "ok", version }) + "\n");
  } else if (request.url === "/") {
    response.end(`Hello from Node, version ${version}, up for ${ms(Date.now() - started)}\n`);
  } else {
    response.statusCode = 404;
    response.end("No such page\n");
  }
});

server.listen(port, "0.0.0.0", () => console.log(`listening on ${port}`));

// Finish the requests under way, then go: a rolling update loses none.
process.on("SIGTERM", () => server.close(() => process.exit(0)));
