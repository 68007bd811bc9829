// The Node.js twin of serving.py: the same questions and answers.
const fs = require("node:fs");
const readline = require("node:readline");

const DATA = "x".repeat(99);
const URL = process.env.BENCH_URL;
const [ROLE] = process.argv.slice(2);

const stamped = () => `T${process.hrtime.bigint()}.`.padEnd(99, "x");
const now = () => Number(process.hrtime.bigint()) / 1e9;
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1e3 * seconds));

// Client: { batch, setup?, bulkOf(count, delayS), one(data) }
async function answer(client, question) {
  if (question.do === "setup") {
    await client.setup?.();
    return { version: client.version };
  }
  if (question.do === "bulk") return bulk(client, question);
  if (question.do === "call") return call(client, question);
  if (question.do === "probe") return probe(client, question);
  if (question.do === "one") await client.one(stamped());
  return {};
}

async function bulk(client, { count, seconds, delay_s }) {
  const start = now();
  let done = 0;
  while (done < count && now() - start < seconds) {
    const size = Math.min(client.batch, count - done);
    await client.bulkOf(size, delay_s);
    done += size;
  }
  return { count: done, seconds: now() - start };
}

function* starts(caller, callers, seconds, rate) {
  const begin = now();
  let at = rate ? begin + caller / rate : begin;
  for (let time; (time = now()) < begin + seconds && at < begin + seconds; ) {
    yield rate ? [at, Math.max(0, at - time)] : [time, 0];
    if (rate) at += callers / rate;
  }
}

async function call(client, { callers, seconds, rate }) {
  const us = [];
  const begin = now();
  const run = async (_, caller) => {
    for (const [start, wait] of starts(caller, callers, seconds, rate)) {
      if (wait) await sleep(wait);
      await client.one(DATA);
      us.push(Math.round(1e6 * (now() - start)));
    }
  };
  await Promise.all(Array.from({ length: callers }, run));
  return { count: us.length, seconds: now() - begin, us };
}

async function probe(client, { seconds, each_s }) {
  let count = 0;
  for (const [, wait] of starts(0, 1, seconds, 1 / each_s)) {
    await sleep(wait);
    await client.one(stamped());
    count += 1;
  }
  return { count };
}

async function serve(client) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(JSON.stringify(await answer(client, JSON.parse(line))) + "\n");
  }
  process.exit(0);
}

const versionOf = (name) =>
  JSON.parse(fs.readFileSync(`${process.env.NODE_PATH}/${name}/package.json`)).version;

module.exports = { DATA, URL, ROLE, serve, versionOf };
