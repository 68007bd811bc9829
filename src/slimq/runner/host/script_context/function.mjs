// A loaded function, and how its batches are run.

import { AFTER, ERROR, EXTRA, HOOK_FAILED, IN_HOOK, IN_JOBS, record, RESULT } from "./answer.mjs";
import { Batch, Context, FunctionContext } from "./context.mjs";
import { find, HANDLE_BATCH, load } from "./loading.mjs";
import * as sqs from "./sqs.mjs";
import {
  Failed,
  isBytes,
  isError,
  kind,
  NoResult,
  readJson,
  Retry,
  summary,
  toBytes,
  traceOf,
} from "./values.mjs";

const [OK, RETRY, FAILED, FAILURE, NO_RESULT] = [200, 102, 400, 500, 502];
const RESULT_MAX = 64 * 1024; // text of one job; more is cut off
const PLAIN_OK = record(RESULT, OK);
const NOTHING_LEFT = "its promise can never settle: nothing is left to wait for";

let giveUp = null; // rejects what is being waited for

process.on("beforeExit", () => {
  if (giveUp === null) return;
  setImmediate(() => {}); // the next job may wait for something again
  giveUp(new Error(NOTHING_LEFT));
});

// Wait for what a function returned, unless nothing can come of it any more.
function settled(value) {
  if (typeof value?.then !== "function") return value;
  return new Promise((resolve, reject) => {
    giveUp = reject;
    value.then(resolve, reject);
  }).finally(() => {
    giveUp = null;
  });
}

export class LoadedFunction {
  #answer;
  #about;
  #handler;
  #isSqs;
  #read;
  #takesAll;
  #hooks;

  // Load a function of a folder; throws CannotStart. `event` is what it is called with.
  static async load(answer, about, folder, [file, name, event]) {
    const exported = await load(folder, file);
    return new LoadedFunction(answer, about, folder, file, name, event, exported);
  }

  constructor(answer, about, folder, file, name, event, exported) {
    const [found, handler] = find(exported, file, name, event === "sqs");
    this.folder = folder;
    this.#answer = answer;
    this.#about = about;
    this.#handler = handler;
    this.#isSqs = event === "sqs";
    this.#read = event === "json" ? readJson : (data) => data;
    this.#takesAll = this.#isSqs || [found, handler.name].includes(HANDLE_BATCH);
    const names = ["before", "beforeBatch", "afterBatch"];
    this.#hooks = Object.fromEntries(names.map((each) => [each, exported(each)]));
  }

  async before() {
    await settled(this.#hooks.before?.(new FunctionContext(this.#about)));
  }

  // Run a batch; what becomes of it is in the answer.
  async run(payload) {
    const batch = new Batch(payload);
    const stands = this.#hooks.afterBatch === undefined;
    this.#answer.begin();
    this.#answer.enter(IN_HOOK, stands);
    if (await this.#succeeds("beforeBatch", batch)) {
      this.#answer.enter(IN_JOBS, stands);
      await (this.#takesAll ? this.#runAll(batch) : this.#runEach(batch));
      this.#answer.enter(IN_HOOK, stands);
      await this.#succeeds("afterBatch", batch);
    }
  }

  async #succeeds(name, batch) {
    try {
      await settled(this.#hooks[name]?.(new Context(this.#about, batch)));
      return true;
    } catch (error) {
      console.error(String(traceOf(error, this.folder)));
      const why = Buffer.from(`${name} failed: ${summary(error, this.folder)}`);
      this.#answer.put(record(HOOK_FAILED, 0, why));
      return false;
    }
  }

  async #runEach(batch) {
    for (let place = 0; place < batch.count; place++) {
      let said;
      try {
        const context = new Context(this.#about, batch, place);
        let value = this.#handler(this.#read(batch.data[place]), context);
        if (typeof value?.then === "function") value = await settled(value);
        said = this.#said(value);
      } catch (error) {
        said = this.#thrown(error);
      }
      this.#put(batch, place, said);
    }
  }

  // Call what takes whole batches: what it returns is said of all jobs at once.
  async #runAll(batch) {
    let said;
    try {
      said = this.#ofList(await this.#callAll(batch), batch.count);
    } catch (error) {
      said = new Array(batch.count).fill(this.#thrown(error));
    }
    said.forEach((records, place) => this.#put(batch, place, records));
  }

  async #callAll(batch) {
    const context = new Context(this.#about, batch);
    if (this.#isSqs) {
      const value = await settled(this.#handler(sqs.eventOf(this.#about, batch), context));
      return sqs.failures(value, batch.ids);
    }
    return settled(this.#handler(batch.data.map(this.#read), context));
  }

  #ofList(value, count) {
    if (value === undefined || value === null) return new Array(count).fill(PLAIN_OK);
    if (!Array.isArray(value)) {
      throw new NoResult(`returned ${kind(value)}, not an array with a result for each job`);
    }
    if (value.length > count) {
      this.#answer.put(record(EXTRA, 0, Buffer.from(String(value.length - count))));
    }
    return value.slice(0, count).map((each) => this.#item(each));
  }

  #item(value) {
    try {
      return isError(value) ? this.#thrown(value) : this.#said(value);
    } catch (error) {
      return this.#thrown(error);
    }
  }

  // { statusCode, body } says a status, as answers of Lambda do.
  #said(value) {
    if (value === undefined || value === null) return PLAIN_OK;
    let status = OK;
    if (saysStatus(value)) {
      status = value.statusCode;
      if (!((status >= 100 && status <= 299) || (status >= 400 && status <= 599))) {
        throw new NoResult(`returned ${status}: a status is 1xx, 2xx, 4xx or 5xx`);
      }
      value = value.body ?? "";
    }
    return record(RESULT, status, toBytes(value).subarray(0, RESULT_MAX));
  }

  #put(batch, place, said) {
    const children = batch.children.get(place);
    if (children !== undefined) {
      batch.children.delete(place);
      said = Buffer.concat([...children, said]);
    }
    if (!this.#answer.hasRoom(said.length)) {
      said = this.#failure(FAILURE, "the jobs of a batch say too much together");
    }
    this.#answer.put(said);
  }

  #thrown(error) {
    if (error instanceof Retry) {
      const said = record(RESULT, RETRY, text(error.message));
      return error.after === undefined ? said : Buffer.concat([after(error.after), said]);
    }
    if (error instanceof Failed) return record(RESULT, FAILED, text(error.message));
    if (error instanceof NoResult) return this.#failure(NO_RESULT, error.message);
    return this.#failure(FAILURE, summary(error, this.folder), traceOf(error, this.folder));
  }

  #failure(status, why, trace = Buffer.alloc(0)) {
    return Buffer.concat([record(ERROR, 0, text(why)), record(RESULT, status, trace)]);
  }
}

function saysStatus(value) {
  if (typeof value !== "object" || isBytes(value) || !Number.isInteger(value.statusCode)) {
    return false;
  }
  return Object.keys(value).every((key) => key === "statusCode" || key === "body");
}

const text = (words) => Buffer.from(String(words)).subarray(0, RESULT_MAX);

function after(seconds) {
  const ms = Math.min(Math.max(0, Math.trunc(1000 * seconds)) || 0, 1e12);
  return record(AFTER, 0, Buffer.from(String(ms)));
}
