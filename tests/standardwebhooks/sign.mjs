// Signs webhooks with the library that Standard Webhooks publish. A line of JSON comes in for
// each, and its signature goes out.
import readline from "node:readline";
import { Webhook } from "standardwebhooks";

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { secret, format, id, timestamp, body } = JSON.parse(line);
  const webhook = new Webhook(secret, format ? { format } : undefined);
  console.log(webhook.sign(id, new Date(timestamp * 1000), body));
}
