"""Verifies a push's signature. Reads JSON: secret, id, timestamp, signature, body. Prints "valid" or "invalid".

By the package standardwebhooks where it is installed, else by Python's own HMAC."""
import base64, hashlib, hmac, json, sys

push = json.load(sys.stdin)


def by_the_standards_library():
    from standardwebhooks import Webhook, WebhookVerificationError

    headers = {"webhook-id": push["id"], "webhook-timestamp": push["timestamp"], "webhook-signature": push["signature"]}
    try:
        Webhook(push["secret"]).verify(push["body"], headers)
        return True
    except WebhookVerificationError:
        return False


def by_hand():
    key = base64.b64decode(push["secret"].removeprefix("whsec_"))
    signed = f"{push['id']}.{push['timestamp']}.{push['body']}".encode()
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return any(hmac.compare_digest(f"v1,{expected}", one) for one in push["signature"].split(" "))


try:
    is_valid = by_the_standards_library()
except ImportError:
    is_valid = by_hand()
print("valid" if is_valid else "invalid")
