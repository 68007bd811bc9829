// What the jobs of a batch said, in a memory file that the node reads. ../python_context/answer.py
// describes it.

import * as system from "./system.mjs";

const HEAD_BYTES = 16;
const RECORD_BYTES = 7;
const ANSWER_MAX = 64 * 1024 * 1024;

export const [IN_HOOK, IN_JOBS] = [1, 2]; // phases
export const [RESULT, ERROR, AFTER, CHILD, HOOK_FAILED, EXTRA] = [1, 2, 3, 4, 5, 6]; // kinds

const NOTHING = Buffer.alloc(0);

export function record(kind, status = 0, payload = NOTHING) {
  const whole = Buffer.allocUnsafe(RECORD_BYTES + payload.length);
  whole[0] = kind;
  whole.writeUInt16LE(status, 1);
  whole.writeUInt32LE(payload.length, 3);
  whole.set(payload, RECORD_BYTES);
  return whole;
}

export class Answer {
  #descriptor;
  #end = HEAD_BYTES;
  #endBytes = Buffer.alloc(8);

  constructor(descriptor) {
    this.#descriptor = descriptor;
  }

  begin() {
    this.#end = HEAD_BYTES;
  }

  enter(phase, stands) {
    system.writeFile(this.#descriptor, Buffer.from([phase, Number(stands)]), 8);
  }

  // A record counts from the moment in which the end is behind it.
  put(records) {
    system.writeFile(this.#descriptor, records, this.#end);
    this.#end += records.length;
    this.#endBytes.writeUInt32LE(this.#end);
    system.writeFile(this.#descriptor, this.#endBytes, 0);
  }

  hasRoom(size) {
    return this.#end + size <= ANSWER_MAX;
  }
}
