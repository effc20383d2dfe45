// An HTTP server of Node.js that nobody changed: it logs what it takes for a request, and what it cannot read.
import { createServer } from "node:http";

const port = Number(process.argv[2]);
const server = createServer((request, response) => {
  let bytes = 0;
  request.on("data", (part) => (bytes += part.length));
  request.on("end", () => {
    console.log(`"${request.method} ${request.url} HTTP/${request.httpVersion}" ${bytes}`);
    response.end("good");
  });
});
server.on("clientError", (error, socket) => {
  console.log(`"unreadable" ${error.code}`);
  socket.destroy();
});
server.listen(port, "127.0.0.1");
