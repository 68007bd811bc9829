// How a function is found in its files, and what is said when it is not.

import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { pathToFileURL } from "node:url";

import { summary } from "./values.mjs";

const CALLBACK = 3; // the place of the callback among the parameters of a handler
const SCRIPT = /^(?!.*node_modules).*\.m?js$/;
const CHECKED_MAX = 50; // each costs a process
export const HANDLE_BATCH = "handleBatch";
const HANDLER = "handler";

// Why a function cannot be run; `file` and `line` say where, when that is known.
export class CannotStart extends Error {
  constructor(why, file = "", line = 0) {
    super(why);
    this.file = file;
    this.line = line;
  }
}

// What a file exports, in either kind of modules.
export async function load(folder, file) {
  let loaded;
  try {
    loaded = await import(pathToFileURL(`${folder}/${file}`).href);
  } catch (error) {
    throw why(error, folder, file);
  }
  const common = loaded.default;
  const isObject = common !== null && ["object", "function"].includes(typeof common);
  return (name) => loaded[name] ?? (isObject ? common[name] : undefined);
}

function why(error, folder, file) {
  const stack = String(error?.stack);
  const where = place(stack, folder) ?? place(String(error?.message), folder);
  const [path, line] = where ?? misspelt(error, folder) ?? [file, 0];
  return new CannotStart(summary(error, folder), path, line);
}

// The first path below the folder that has a line behind it, and that line.
function place(text, folder) {
  for (const part of text.split(`${folder}/`).slice(1)) {
    const found = /^([^\n]+?):(\d+)/.exec(part);
    if (found) return [found[1], Number(found[2])];
  }
  return null;
}

// Where a syntax error is: of modules that are imported, Node.js tells only who asks for it.
function misspelt(error, folder) {
  if (!(error instanceof SyntaxError) || globalThis.Deno) return null;
  const files = readdirSync(folder, { recursive: true }).filter((each) => SCRIPT.test(each));
  for (const each of files.slice(0, CHECKED_MAX)) {
    const checked = spawnSync(process.execPath, ["--check", `${folder}/${each}`]);
    const said = String(checked.stderr);
    if (checked.status !== 0 && said.includes(error.message)) return place(said, folder);
  }
  return null;
}

// What is to be called: `name`, or what has one of the usual names.
export function find(exported, file, name, forSqs) {
  const usual = forSqs ? [HANDLER] : [HANDLE_BATCH, HANDLER];
  const names = name ? [name] : usual;
  const found = names.find((each) => exported(each) !== undefined);
  if (found === undefined) throw new CannotStart(`it exports no ${names.join(" or ")}`, file);
  const called = exported(found);
  if (typeof called !== "function") throw new CannotStart(`${found} is no function`, file);
  if (called.length >= CALLBACK) {
    const rule = "write async (event, context) => ..., and return the result";
    throw new CannotStart(`${found} takes a callback: ${rule}`, file);
  }
  return [found, called];
}
