"""Sources of functions in JavaScript, by what they do. The names are those of HTTP_BEHAVIOURS."""

from __future__ import annotations

SCRIPT_BEHAVIOURS = {
    "digest": """
const { createHash } = require("node:crypto");
exports.handler = async (event, context) =>
    `${event.length} ${createHash("sha256").update(event).digest("hex")}`;
""",
    "order": "exports.handler = (event, context) => event;\n",
    "garbage": """
exports.handleBatch = (events) =>
    events.flatMap(() => [() => 1, { statusCode: 999, body: "no" }, Symbol("x"), 1n]);
""",
    "one_bad": """
exports.handleBatch = (events) => ["fine", () => 1, ...Array(events.length - 2).fill("fine")];
""",
    "too_few": "exports.handleBatch = (events) => Array(events.length - 1).fill('fine');\n",
    "too_many": "exports.handleBatch = (events) => Array(events.length + 3).fill('fine');\n",
    "nothing": "exports.handleBatch = () => [];\n",
    "statuses": """
exports.handleBatch = async () => [
    { statusCode: 102, body: "later" }, "done",
    { statusCode: 422, body: "no" }, { statusCode: 503, body: "broken" }];
""",
    "children": """
exports.handleBatch = (events, context) => {
    const [first, second] = context.jobs;
    first.enqueue("bill", "for 0");
    second.enqueue("bill");
    try {
        second.enqueue("not legal", "x");
    } catch (error) {
        console.log(error.message);
    }
    context.log("# a log line");
    second.enqueue("log", Buffer.from("end"));
};
""",
    "hang": "exports.handler = () => { for (;;); };\n",
    "drip": """
exports.handler = () => new Promise(() => setInterval(() => process.stdout.write("2"), 20));
""",
    "flood": """
exports.handler = () => { for (;;) process.stdout.write("200 flood\\n".repeat(6000)); };
""",
    "crash": "exports.handler = () => process.abort();\n",
}
