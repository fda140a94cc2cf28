// Verifies a push's signature. Reads JSON: secret, id, timestamp, signature, body. Prints "valid" or "invalid".
//
// By the package standardwebhooks where it is installed, else by Node's own HMAC.
const crypto = require("node:crypto");

const push = JSON.parse(require("node:fs").readFileSync(0, "utf8"));

function byTheStandardsLibrary({ Webhook }) {
  const headers = { "webhook-id": push.id, "webhook-timestamp": push.timestamp, "webhook-signature": push.signature };
  try {
    new Webhook(push.secret).verify(push.body, headers);
    return true;
  } catch {
    return false;
  }
}

function byHand() {
  const key = Buffer.from(push.secret.replace(/^whsec_/, ""), "base64");
  const expected = crypto.createHmac("sha256", key).update(`${push.id}.${push.timestamp}.${push.body}`).digest("base64");
  return push.signature.split(" ").includes(`v1,${expected}`);
}

let library;
try {
  library = require("standardwebhooks");
} catch {}
console.log((library ? byTheStandardsLibrary(library) : byHand()) ? "valid" : "invalid");
