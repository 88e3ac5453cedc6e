// What a program does with the official client for JavaScript. It prints what it saw, one JSON text a line;
// tests/gateway/responses/matrix.py does the same with the client for Python.

import OpenAI from "openai";
import { createInterface } from "node:readline";

const [baseURL, apiKey] = process.argv.slice(2);
const model = "clerk";
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30_000 });
const say = (name, seen) => console.log(JSON.stringify([name, seen]));
const heard = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

async function refused(asked) {
  try {
    await asked;
  } catch (error) {
    return [error.constructor.name, error.status, error.type, error.code, error.param];
  }
  return "not refused";
}

const told = (events) => ({
  types: events.map((event) => event.type.replace("response.", "")),
  numbered: events.every((event, place) => event.sequence_number === events[0].sequence_number + place),
  text: events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join(""),
});

say("models", (await client.models.list()).data.map((one) => one.id));

const plain = await client.responses.create({ model, input: "How is it?", metadata: { ticket: "7" } });
say("plain", [plain.status, plain.output_text, plain.usage.total_tokens, plain.metadata, plain.model]);

say("stream", told(await all(await client.responses.create({ model, input: "Look.", stream: true }))));

const helper = client.responses.stream({ model, input: "How is it?" });
const helped = [];
helper.on("response.output_text.delta", (event) => helped.push(event.delta));
const final = await helper.finalResponse();
say("helper", [helped.join(""), final.output_text, final.status]);

const schema = {
  type: "object",
  properties: { shelf: { type: "string" } },
  required: ["shelf"],
  additionalProperties: false,
};
const format = { type: "json_schema", name: "place", strict: true, schema };
const parsed = await client.responses.parse({ model, input: "Where?", text: { format } });
say("parse", parsed.output_parsed);

const begun = await client.responses.create({ model, input: "Go.", background: true });
let later = begun;
const until = Date.now() + 30_000;
while (["queued", "in_progress"].includes(later.status) && Date.now() < until) {
  await new Promise((done) => setTimeout(done, 50));
  later = await client.responses.retrieve(begun.id);
}
say("background", [begun.background, ["queued", "in_progress"].includes(begun.status), later.status, later.output_text]);

const whole = await all(await client.responses.retrieve(begun.id, { stream: true }));
const rest = await all(await client.responses.retrieve(begun.id, { stream: true, starting_after: 3 }));
say("starting_after", JSON.stringify(rest) === JSON.stringify(whole.slice(4)));

const next = await client.responses.create({ model, input: "And now?", previous_response_id: plain.id });
say("next", [next.output_text, next.previous_response_id === plain.id]);

const asked = await client.responses.create({ model, input: "Pay 30." });
const request = asked.output.at(-1);
const answer = { type: "mcp_approval_response", approval_request_id: request.id, approve: true };
const paid = await client.responses.create({ model, input: [answer], previous_response_id: asked.id });
say("approval", [request.type, request.name, request.arguments, paid.output.map((item) => item.type), paid.output_text]);

const parameters = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const weather = { type: "function", name: "get_weather", strict: true, parameters };
const input = [{ role: "user", content: "How is Oslo?" }];
const given = [];
let answered;
do {
  answered = await client.responses.create({ model, input, tools: [weather] });
  input.push(...answered.output);
  for (const item of answered.output.filter((one) => one.type === "function_call")) {
    given.push(item.arguments);
    input.push({ type: "function_call_output", call_id: item.call_id, output: "cold" });
  }
} while (input.at(-1).type === "function_call_output");
say("functions", [given, answered.output_text]);

const items = [{ type: "message", role: "user", content: "I am Ana." }];
const conversation = await client.conversations.create({ items });
const greeted = await client.responses.create({ model, input: "Greet me.", conversation: conversation.id });
const said = [];
for await (const item of client.conversations.items.list(conversation.id, { order: "asc", limit: 2 })) {
  said.push(item.content[0].text);
}
say("conversation", [greeted.conversation.id === conversation.id, said]);
say("conversation gone", (await client.conversations.delete(conversation.id)).deleted);

const waiting = await client.responses.create({ model, input: "Pay 40." });
say("cancel", [waiting.output.at(-1).type, (await client.responses.cancel(waiting.id)).status]);

await client.responses.delete(plain.id);
say("deleted", await refused(client.responses.retrieve(plain.id)));

const wrongKey = new OpenAI({ baseURL, apiKey: "hk_wrong", maxRetries: 0 });
const elsewhere = new OpenAI({ baseURL, apiKey, maxRetries: 0, defaultHeaders: { Origin: "http://evil.example" } });
say("wrong key", await refused(wrongKey.responses.create({ model, input: "Go." })));
say("wrong origin", await refused(elsewhere.models.list()));
say("no such model", await refused(client.responses.create({ model: "nobody", input: "Go." })));
say("unknown parameter", await refused(client.responses.create({ model, input: "Go.", nonsense: 1 })));
say("too large", await refused(client.responses.create({ model, input: "x".repeat(2_000_000) })));
say("not kept", await refused(client.responses.create({ model, input: "\u0000" })));
say("nowhere", await refused(client.get("/responses/resp_1/nowhere")));
say("not done", await refused(client.put("/responses")));

const dropped = await client.responses.create({ model, input: "Wait.", stream: true });
const before = [];
for await (const event of dropped) {
  before.push(event);
  if (event.type === "response.mcp_call.in_progress") break; // this closes its socket
}
say("dropped", before.at(-1).type);
await heard.next();
const name = before[0].response.id;
const starting_after = before.at(-1).sequence_number;
const after = await all(await client.responses.retrieve(name, { stream: true, starting_after }));
say("taken up", told([...before, ...after]));
process.exit(0);
