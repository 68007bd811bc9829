// What functions give back, as bytes; and what they may throw.

import { Buffer, isUtf8 } from "node:buffer";
import { types } from "node:util";

const LINE_MAX = 1024 * 1024; // data of a child
const TRACE_MAX = 8 * 1024;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
const OWN = new URL(".", import.meta.url);

// Not now: the job runs again after so many seconds, or a backoff; it costs no failure.
export class Retry extends Error {
  constructor(why = "", options = {}) {
    super(why);
    this.after = options?.after;
  }
}

// The job ran, and cannot succeed: it is done.
export class Failed extends Error {}

// What a function returned is no result.
export class NoResult extends Error {}

export const isError = (value) => types.isNativeError(value) || value instanceof Error;

export const isBytes = (value) => value instanceof Uint8Array;

export function kind(value) {
  if (value === null || typeof value !== "object") return `a value of type ${typeof value}`;
  return `a value of type ${value.constructor?.name ?? "object"}`;
}

// Bytes as they are, text in UTF-8, anything else as JSON.
export function toBytes(value) {
  if (isBytes(value)) return value;
  if (typeof value === "string") return Buffer.from(value);
  let text;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw new NoResult(`${kind(value)} is neither bytes, text nor JSON: ${summary(error)}`);
  }
  if (text === undefined) throw new NoResult(`${kind(value)} is neither bytes, text nor JSON`);
  return Buffer.from(text);
}

// What a line says in JSON, or the line itself when it says nothing in it.
export function readJson(data) {
  if (!isUtf8(data)) return data;
  try {
    return JSON.parse(data.toString());
  } catch {
    return data;
  }
}

// A new job as an answer holds it.
export function child(jobtype, data) {
  const line = toBytes(data);
  if (line.includes(10) || line.length > LINE_MAX) {
    throw new RangeError(`the data of a job is one line of at most ${LINE_MAX} bytes`);
  }
  if (typeof jobtype !== "string" || !NAME.test(jobtype)) {
    throw new RangeError(`'${jobtype}' is no name of a jobtype`);
  }
  return Buffer.concat([Buffer.from(`${jobtype}|`), line]);
}

// What was thrown, on one line, with paths as they are in the folder of the function.
export function summary(error, folder = "") {
  let text = "?";
  try {
    text = isError(error) ? `${error.name}: ${error.message}` : `${kind(error)}: ${error}`;
  } catch {
    // it is thrown by what describes it
  }
  return relative(text.replace(/: $/, ""), folder).replace(/\s*\n\s*/g, " ");
}

// The stack of an error without the lines of this program.
export function traceOf(error, folder) {
  const stack = isError(error) && typeof error.stack === "string" ? error.stack : summary(error);
  const lines = stack.split("\n").filter((line) => !line.includes(OWN.pathname));
  return Buffer.from(relative(lines.join("\n"), folder)).subarray(0, TRACE_MAX);
}

function relative(text, folder) {
  return folder ? text.replaceAll(`file://${folder}/`, "").replaceAll(`${folder}/`, "") : text;
}
