// What a handler gets beside its event.

import { CHILD, record } from "./answer.mjs";
import * as system from "./system.mjs";
import { child, Failed, Retry } from "./values.mjs";

const CHILDREN_MAX = 10_000; // of one job
const PROGRESS_MS = 100; // the node is told at most so often
const NEWLINE = 10;

// Of a function: whose it is, and what it may take.
export class About {
  constructor(control, [client, jobtype, version, memoryMb]) {
    Object.assign(this, { control, client, jobtype, version, memoryMb: Number(memoryMb) });
    this.toldAt = -Infinity;
  }
}

// Jobs that run together; ../python_context/context.py describes what they are read from.
export class Batch {
  #ids;
  #attempts;

  constructor(payload) {
    const lines = [];
    let start = 0;
    for (let end; (end = payload.indexOf(NEWLINE, start)) !== -1; start = end + 1) {
      lines.push(payload.subarray(start, end));
    }
    lines.push(payload.subarray(start));
    const [head, ids, attempts, ...data] = lines;
    const [count, batchMs, jobMs] = head.toString("latin1").split(" ").map(Number);
    Object.assign(this, { count, jobMs, data, deadline: performance.now() + batchMs });
    this.children = new Map(); // records, by the place of their job
    this.#ids = ids;
    this.#attempts = attempts;
  }

  get ids() {
    if (!Array.isArray(this.#ids)) this.#ids = this.#ids.toString("latin1").split(" ");
    return this.#ids;
  }

  get attempts() {
    if (!Array.isArray(this.#attempts)) {
      this.#attempts = this.#attempts.toString("latin1").split(" ").map(Number);
    }
    return this.#attempts;
  }
}

// What holds for every call: also for `before`, which is called for no job.
export class FunctionContext {
  #about;
  callbackWaitsForEmptyEventLoop = true;

  constructor(about) {
    this.#about = about;
  }

  get client() {
    return this.#about.client;
  }

  get jobtype() {
    return this.#about.jobtype;
  }

  get functionName() {
    return this.#about.jobtype;
  }

  get functionVersion() {
    return this.#about.version;
  }

  get logStreamName() {
    return this.#about.version;
  }

  get logGroupName() {
    return `/slimq/${this.#about.client}/${this.#about.jobtype}`;
  }

  get memoryLimitInMB() {
    return this.#about.memoryMb;
  }

  get invokedFunctionArn() {
    return `arn:aws:lambda:local:000000000000:function:${this.#about.jobtype}`;
  }

  log(...words) {
    console.log(...words);
  }
}
FunctionContext.prototype.Retry = Retry;
FunctionContext.prototype.Failed = Failed;

// Of one job of a batch; without `place`, of the whole batch.
export class Context extends FunctionContext {
  #about;
  #batch;
  #place;
  #deadline;

  constructor(about, batch, place) {
    super(about);
    this.#about = about;
    this.#batch = batch;
    this.#place = place;
    this.#deadline = batch.deadline;
    if (batch.jobMs && place !== undefined) {
      this.#deadline = Math.min(batch.deadline, performance.now() + batch.jobMs);
    }
  }

  get id() {
    return this.#batch.ids[this.#place ?? 0];
  }

  get awsRequestId() {
    return this.id;
  }

  get attempt() {
    return this.#batch.attempts[this.#place ?? 0];
  }

  // The contexts of all jobs of the batch, in the order of the events.
  get jobs() {
    return this.#batch.data.map((_, place) => new Context(this.#about, this.#batch, place));
  }

  getRemainingTimeInMillis() {
    return Math.max(0, Math.trunc(this.#deadline - performance.now()));
  }

  // Add a job of the same client. `data` is bytes, text, or becomes JSON. Throws RangeError when
  // it can be no job.
  enqueue(jobtype, data = "") {
    const place = this.#one("enqueue");
    const children = this.#batch.children.get(place) ?? [];
    if (children.length >= CHILDREN_MAX) {
      throw new RangeError(`a job adds at most ${CHILDREN_MAX} jobs`);
    }
    children.push(record(CHILD, 0, child(jobtype, data)));
    this.#batch.children.set(place, children);
  }

  // Say how far the job is.
  progress(done, total = 0) {
    const place = this.#one("progress");
    const now = performance.now();
    if (now - this.#about.toldAt >= PROGRESS_MS) {
      this.#about.toldAt = now;
      const said = `P${place} ${Math.trunc(done)} ${Math.trunc(total)}`;
      system.write(this.#about.control, Buffer.from(said));
    }
  }

  #one(verb) {
    if (this.#place === undefined && this.#batch.count !== 1) {
      throw new TypeError(`of several jobs, say which: context.jobs[n].${verb}(...)`);
    }
    return this.#place ?? 0;
  }
}
