// Graphile Worker drains jobs that do nothing: `peer_graphile.cjs URL COUNT` prints jobs/s.
const { runOnce, makeWorkerUtils } = require("graphile-worker");
const [connectionString, count] = process.argv.slice(2);
const silent = new (require("graphile-worker").Logger)(() => () => {});

async function main() {
  const utils = await makeWorkerUtils({ connectionString, logger: silent });
  await utils.migrate();
  await utils.withPgClient((client) =>
    client.query(
      `SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
         SELECT json_populate_record(NULL::graphile_worker.job_spec,
           json_build_object('identifier', 'nothing', 'payload', json_build_object('line', repeat('x', 99))))
         FROM generate_series(1, $1::int)))`,
      [count],
    ),
  );
  await utils.release();
  const start = process.hrtime.bigint();
  await runOnce({
    connectionString,
    logger: silent,
    taskList: { nothing: async () => {} },
    preset: { worker: { concurrentJobs: 24, maxPoolSize: 10, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
  });
  console.log(Number(count) / (Number(process.hrtime.bigint() - start) / 1e9));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
