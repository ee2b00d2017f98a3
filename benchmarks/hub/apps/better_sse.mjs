// better-sse's application: node better_sse.mjs PORT PACKAGE
import { createServer } from "node:http";

const [port, source] = process.argv.slice(2);
const { createChannel, createSession } = await import(source);
const channel = createChannel();

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  if (url.pathname === "/stream") {
    channel.register(await createSession(request, response, { keepAlive: null }));
    return;
  }
  let body = "";
  for await (const piece of request) body += piece;
  const data = JSON.parse(body);
  for (let n = Number(url.searchParams.get("n")); n > 0; n--) channel.broadcast(data, "sold");
  response.end();
});
server.requestTimeout = 0;
server.listen({ port: Number(port), host: "127.0.0.1", backlog: 2048 });
