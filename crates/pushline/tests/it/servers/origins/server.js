// A receiver on Node's http, https or http2: records each request in a file, then answers.
//
//   node server.js PORT FOLDER http1|http2 plain|tls|certificate
"use strict";

const fs = require("fs");
const http = require("http");
const http2 = require("http2");
const https = require("https");
const path = require("path");

const [port, folder, protocol, security] = process.argv.slice(2);
const file = (name) => path.join(folder, name);
const record = fs.openSync(file("record"), "a");

const options = security === "plain" ? {} : {
    cert: fs.readFileSync(file("server.pem")),
    key: fs.readFileSync(file("server.key")),
    ca: fs.readFileSync(file("ca.pem")),
    requestCert: security === "certificate",
    rejectUnauthorized: security === "certificate",
};

const answer = (request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => {
        fs.writeSync(record, `${request.httpVersion}\t${request.headers["webhook-id"]}\t${Buffer.concat(parts)}\n`);
        response.end();
    });
};

let server;
if (protocol === "http2") {
    const more = { ...options, settings: { maxConcurrentStreams: 5 } };
    server = security === "plain" ? http2.createServer(more, answer) : http2.createSecureServer(more, answer);
    server.on("session", (session) => session.setTimeout(300, () => session.close()));
} else {
    server = security === "plain" ? http.createServer(options, answer) : https.createServer(options, answer);
    server.keepAliveTimeout = 300;
    server.maxRequestsPerSocket = 50;
}
server.listen(Number(port), "127.0.0.1");
