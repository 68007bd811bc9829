// pg-boss on PostgreSQL. It polls, every half second at the most.
const PgBoss = require("pg-boss");
const { hit } = require("./hits.cjs");
const { DATA, URL: connectionString, ROLE, serve, versionOf } = require("./serving.cjs");

const QUEUE = "bench", CONNECTIONS = 32, BATCH = 5000, POLL_S = 0.5;

async function started(supervise) {
  const boss = new PgBoss({ connectionString, max: CONNECTIONS, supervise, schedule: false });
  boss.on("error", console.error);
  await boss.start();
  return boss;
}

async function client() {
  const boss = await started(false);
  await serve({
    batch: 10_000,
    version: versionOf("pg-boss"),
    setup: () => boss.createQueue(QUEUE),
    bulkOf: (count, delayS) => {
      const more = delayS ? { startAfter: new Date(Date.now() + 1000 * delayS) } : {};
      return boss.insert(Array.from({ length: count }, () => ({ name: QUEUE, data: { line: DATA }, ...more })));
    },
    one: (line) => boss.send(QUEUE, { line }),
  });
}

async function work() {
  const boss = await started(true);
  await boss.work(QUEUE, { batchSize: BATCH, pollingIntervalSeconds: POLL_S }, async (jobs) => jobs.forEach((job) => hit(job.data.line)));
}

if (ROLE === "client") client();
else work();
