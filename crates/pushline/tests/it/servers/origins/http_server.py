"""A receiver on Python's http.server: records each request in a file, then answers.

    http_server.py PORT FOLDER HTTP/1.0|HTTP/1.1 plain|tls|certificate
"""

import http.server
import os
import ssl
import sys

port, folder, protocol, security = sys.argv[1:]
record = open(os.path.join(folder, "record"), "ab", buffering=0)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = protocol
    # A connection that is idle for this long, in seconds, is closed.
    timeout = 0.3

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        record.write(b"%s\t%s\t%s\n" % (self.request_version.encode(), self.headers["webhook-id"].encode(), body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


server = Server(("127.0.0.1", int(port)), Handler)
if security != "plain":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=os.path.join(folder, "ca.pem"))
    context.load_cert_chain(os.path.join(folder, "server.pem"), os.path.join(folder, "server.key"))
    context.verify_mode = ssl.CERT_REQUIRED if security == "certificate" else ssl.CERT_NONE
    # The handshake takes place in the connection's thread, at its first read.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
