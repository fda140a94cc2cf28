"""A receiver as an ASGI application, for uvicorn and hypercorn: records each request in a file, then answers."""

import os

RECORD = open(os.environ["RECORD"], "ab", buffering=0)


async def app(scope, receive, send):
    """https://asgi.readthedocs.io/en/latest/specs/www.html"""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body, more = body + event.get("body", b""), event.get("more_body", False)
    headers = dict(scope["headers"])
    RECORD.write(b"%s\t%s\t%s\n" % (scope["http_version"].encode(), headers[b"webhook-id"], body))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
