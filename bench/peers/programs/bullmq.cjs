// BullMQ on Redis, 100 jobs at a time in each worker; done jobs are removed.
const { Queue, Worker } = require("bullmq");
const { hit } = require("./hits.cjs");
const { DATA, URL: address, ROLE, serve, versionOf } = require("./serving.cjs");

const QUEUE = "bench", CONCURRENCY = 100;
const connection = { host: "127.0.0.1", port: Number(new URL(address).port) };

async function client() {
  const defaultJobOptions = { removeOnComplete: true, removeOnFail: true };
  const queue = new Queue(QUEUE, { connection, defaultJobOptions });
  await queue.waitUntilReady();
  await serve({
    batch: 1000,
    version: versionOf("bullmq"),
    bulkOf: (count, delayS) => {
      const opts = delayS ? { delay: 1000 * delayS } : {};
      return queue.addBulk(Array.from({ length: count }, () => ({ name: "nothing", data: { line: DATA }, opts })));
    },
    one: (line) => queue.add("nothing", { line }),
  });
}

if (ROLE === "client") client();
else new Worker(QUEUE, async (job) => hit(job.data.line), { connection, concurrency: CONCURRENCY });
