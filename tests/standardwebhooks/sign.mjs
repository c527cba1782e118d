// Signs webhooks with the library that Standard Webhooks publish. A line of JSON comes in for
// each, and its signature goes out.
import readline from "node:readline";
import { Webhook } from "standardwebhooks";

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { secret, format, id, timestamp, body } = JSON.parse(line);
  // Bytes: the library cuts each character of a raw secret that is a string to one byte.
  const webhook = format === "raw" ? new Webhook(new TextEncoder().encode(secret), { format }) : new Webhook(secret);
  console.log(webhook.sign(id, new Date(timestamp * 1000), body));
}
