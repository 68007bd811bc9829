// Graphile Worker on PostgreSQL. Its local queue is for drains: a lone job starts sooner without.
const { Logger, makeWorkerUtils, run, runMigrations } = require("graphile-worker");
const { Pool } = require("pg");
const { hit } = require("./hits.cjs");
const { DATA, URL: connectionString, ROLE, serve, versionOf } = require("./serving.cjs");

const logger = new Logger(() => () => {});
const CONNECTIONS = 32; // of one client

async function client() {
  const pgPool = new Pool({ connectionString, max: CONNECTIONS });
  const utils = await makeWorkerUtils({ pgPool, logger });
  await serve({
    batch: 10_000,
    version: versionOf("graphile-worker"),
    setup: () => runMigrations({ connectionString, logger }),
    bulkOf: (count, delayS) => {
      const runAt = delayS ? new Date(Date.now() + 1000 * delayS) : undefined;
      return utils.addJobs(Array.from({ length: count }, () => ({ identifier: "nothing", payload: { line: DATA }, runAt })));
    },
    one: (line) => utils.addJob("nothing", { line }),
  });
}

async function work(more) {
  const worker = { concurrentJobs: 24, maxPoolSize: 25, pollInterval: 2000, ...more };
  const taskList = { nothing: async ({ line }) => hit(line) };
  await (await run({ connectionString, logger, taskList, preset: { worker } })).promise;
}

if (ROLE === "client") client();
else if (ROLE === "worker") work({ localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 });
else work({ completeJobBatchDelay: 0, failJobBatchDelay: 0 });
