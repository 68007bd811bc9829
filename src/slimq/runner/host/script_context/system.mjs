// What differs between Node.js and Deno, and what both do otherwise than a log needs.

import { Console } from "node:console";
import fs from "node:fs";
import { Writable } from "node:stream";

// Deno knows no descriptors that it did not open: the library of C does.
const libc = globalThis.Deno?.dlopen("libc.so.6", {
  read: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  pread: { parameters: ["i32", "buffer", "usize", "i64"], result: "isize" },
  pwrite: { parameters: ["i32", "buffer", "usize", "i64"], result: "isize" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
}).symbols;

const calls = libc
  ? {
      read: (fd, buffer) => Number(libc.read(fd, buffer, buffer.length)),
      write: (fd, buffer) => Number(libc.write(fd, buffer, buffer.length)),
      pread: (fd, buffer, at) => Number(libc.pread(fd, buffer, buffer.length, at)),
      pwrite: (fd, buffer, at) => Number(libc.pwrite(fd, buffer, buffer.length, at)),
    }
  : {
      read: (fd, buffer) => fs.readSync(fd, buffer),
      write: (fd, buffer) => fs.writeSync(fd, buffer),
      pread: (fd, buffer, at) => fs.readSync(fd, buffer, 0, buffer.length, at),
      pwrite: (fd, buffer, at) => fs.writeSync(fd, buffer, 0, buffer.length, at),
    };

const message = Buffer.alloc(64);
const exit_ = process.exit.bind(process);

export const words = () => process.argv.slice(2);

export const exit = (code) => exit_(code);

// Keep a descriptor from processes that a function starts. Node.js does so by itself.
export function keep(descriptor) {
  const [SET_FLAGS, CLOSE_ON_EXEC] = [2, 1];
  libc?.fcntl(descriptor, SET_FLAGS, CLOSE_ON_EXEC);
}

export function readMessage(descriptor) {
  const size = calls.read(descriptor, message);
  return message.toString("latin1", 0, Math.max(0, size));
}

export function readFile(descriptor, size) {
  const content = Buffer.allocUnsafeSlow(size);
  let at = 0;
  while (at < size) {
    const more = calls.pread(descriptor, content.subarray(at), at);
    if (more <= 0) throw new Error("the batch cannot be read");
    at += more;
  }
  return content;
}

export function write(descriptor, bytes) {
  if (calls.write(descriptor, bytes) < 0) throw new Error("the node cannot be written to");
}

export function writeFile(descriptor, bytes, start) {
  let at = 0;
  while (at < bytes.length) {
    const more = calls.pwrite(descriptor, at ? bytes.subarray(at) : bytes, start + at);
    if (more < 0) throw new Error("the answer cannot be written");
    at += more;
  }
}

export function memoryTaken() {
  try {
    return process.memoryUsage.rss();
  } catch {
    return 0;
  }
}

// Make one log of both outputs, in the order in which it was said, that is with the node before
// the result is.
export function takeOverOutput() {
  const log = (bytes) => {
    for (let at = 0; at < bytes.length; ) {
      const more = calls.write(1, bytes.subarray(at));
      if (more <= 0) return;
      at += more;
    }
  };
  const stream = () =>
    new Writable({
      decodeStrings: true,
      write(chunk, _, done) {
        log(chunk);
        done();
      },
    });
  for (const name of ["stdout", "stderr"]) {
    Object.defineProperty(process, name, { value: stream(), configurable: true });
  }
  globalThis.console = new Console({ stdout: process.stdout, stderr: process.stderr });
}
