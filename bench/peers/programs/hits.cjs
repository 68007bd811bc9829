// The Node.js twin of hits.py: the same file, written 2 ms after a hit at the latest.
const fs = require("node:fs");

const HEAD = 32, ONE = 8, LATENCIES_MAX = 4000, WRITE_MS = 2;
const buffer = Buffer.alloc(HEAD + ONE * LATENCIES_MAX);
let file = null, timer = null;
let count = 0n, first = 0n, last = 0n, latencies = 0n;

function write() {
  timer = null;
  [count, first, last, latencies].forEach((value, index) => buffer.writeBigInt64LE(value, ONE * index));
  fs.writeSync(file, buffer, 0, HEAD + ONE * Number(latencies), 0);
}

exports.hit = (data) => {
  last = process.hrtime.bigint();
  if (file === null) {
    file = fs.openSync(`${process.env.BENCH_HITS}/${process.pid}.hits`, "w");
    first = last;
  }
  count++;
  if (data[0] === "T" && latencies < LATENCIES_MAX) {
    const sent = BigInt(data.slice(1, data.indexOf(".")));
    buffer.writeBigInt64LE(last - sent, HEAD + ONE * Number(latencies));
    latencies++;
  }
  timer ??= setTimeout(write, WRITE_MS);
};
