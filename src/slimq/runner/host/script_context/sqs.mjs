// Functions that were written for SQS: what Lambda would give them, and what they answer.

import { createHash } from "node:crypto";

import { NoResult } from "./values.mjs";

const ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"; // of ids
const TIME_CHARACTERS = 7;

// A message that the function could not process.
export class NotProcessed extends Error {}
NotProcessed.prototype.name = "NotProcessed";

// The event that Lambda makes of a batch of messages.
export function eventOf(about, batch) {
  const records = batch.data.map((data, place) => {
    return recordOf(about, batch.ids[place], batch.attempts[place], data);
  });
  return { Records: records };
}

function recordOf(about, name, attempt, data) {
  const sentAt = String(sentMs(name));
  return {
    messageId: name,
    receiptHandle: `${name}:${attempt}`,
    body: data.toString(),
    attributes: {
      ApproximateReceiveCount: String(attempt),
      SentTimestamp: sentAt,
      SenderId: about.client,
      ApproximateFirstReceiveTimestamp: sentAt,
    },
    messageAttributes: {},
    md5OfBody: createHash("md5").update(data).digest("hex"),
    eventSource: "aws:sqs",
    eventSourceARN: `arn:aws:sqs:local:000000000000:${about.jobtype}`,
    awsRegion: "local",
  };
}

// What became of each job by the answer of a function; undefined when it says of none that it
// failed. As in Lambda, an answer that names no message of the batch fails all.
export function failures(value, ids) {
  const named = value?.batchItemFailures;
  if (named === undefined || named === null || named.length === 0) return undefined;
  const failed = new Set(Array.isArray(named) ? named.map((each) => each?.itemIdentifier) : [null]);
  const known = new Set(ids);
  for (const each of failed) {
    if (!known.has(each)) {
      throw new NoResult("batchItemFailures names what is no message of this batch");
    }
  }
  const error = new NotProcessed("named in batchItemFailures");
  return ids.map((each) => (failed.has(each) ? error : undefined));
}

// When a job was accepted: the first characters of its id say it.
function sentMs(name) {
  let ms = 0;
  for (const char of name.slice(0, TIME_CHARACTERS)) ms = 64 * ms + ALPHABET.indexOf(char);
  return ms;
}
