// The program inside a warm context of lang node or deno: load a function, then run batch after
// batch until the node goes.
//
// Started with the same words and descriptors as ../python_context/main.py, which describes the
// protocol; here MODULE is the path of a file, and there are no PACKAGES and no SITE. Nothing is installed beside this folder.
//
// Between two batches this process stands still: it waits for the next in a system call, and
// timers that a function left behind go on when it comes.

import { Answer } from "./answer.mjs";
import { About } from "./context.mjs";
import { LoadedFunction } from "./function.mjs";
import { CannotStart } from "./loading.mjs";
import * as system from "./system.mjs";
import { summary } from "./values.mjs";

const MESSAGE_MAX = 4096;

async function start(control, answer, folder, words) {
  try {
    return await LoadedFunction.load(answer, new About(control, words.slice(3)), folder, words);
  } catch (error) {
    const { file = "", line = 0 } = error;
    const why = error instanceof CannotStart ? error.message : summary(error, folder);
    const said = Buffer.from(`N${file}\0${line}\0${why}`).subarray(0, MESSAGE_MAX);
    system.write(control, said);
    return null;
  }
}

async function main(control, batch, descriptor, mode, folder, _packages, _site, ...words) {
  system.takeOverOutput();
  for (const each of [control, batch, descriptor]) system.keep(each);
  const answer = new Answer(descriptor);
  system.write(control, Buffer.from("B"));
  const loaded = await start(control, answer, folder, words);
  if (loaded === null || (mode === "run" && !(await began(loaded, control)))) {
    system.exit(0);
  }
  system.write(control, Buffer.from(`Y${system.memoryTaken()}`));
  for (;;) {
    const size = Number(system.readMessage(control));
    if (size === 0) system.exit(0);
    await loaded.run(system.readFile(batch, size));
    system.write(control, Buffer.from(`D${system.memoryTaken()}`));
  }
}

async function began(loaded, control) {
  try {
    await loaded.before();
    return true;
  } catch (error) {
    const why = `before failed: ${summary(error, loaded.folder)}`;
    system.write(control, Buffer.from(`N\0\0${why}`).subarray(0, MESSAGE_MAX));
    return false;
  }
}

const [first, second, third, ...rest] = system.words();
main(Number(first), Number(second), Number(third), ...rest);
