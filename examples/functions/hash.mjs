// A function of lang node: says the length and the SHA-256 of each line.
//
//     slimq fn deploy hash hash.mjs
//     echo hello | slimq add hash

import { createHash } from "node:crypto";

export const handler = (event) =>
  `${event.length} ${createHash("sha256").update(event).digest("hex")}`;
