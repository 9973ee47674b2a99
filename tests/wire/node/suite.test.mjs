// The official Node SDK, unchanged. HEADGATE_URL and HEADGATE_KEY say where; tests/wire/test_node_sdk.py runs it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';

const url = process.env.HEADGATE_URL;
const make = (apiKey = process.env.HEADGATE_KEY) => new OpenAI({ apiKey, baseURL: `${url}/v1`, maxRetries: 0, timeout: 60_000 });
const client = make();
const model = 'headgate-demo';
const messages = [{ role: 'user', content: 'Who are you?' }];
const script = (fields) => ({ model: 'scripted', messages, metadata: { script: JSON.stringify(fields) } });
const chat = (fields) => client.chat.completions.create({ model, messages, ...fields });
const all = async (stream) => {
  const pieces = [];
  for await (const piece of await stream) pieces.push(piece);
  return pieces;
};
const text = (pieces) => pieces.map((piece) => piece.choices[0]?.delta?.content ?? '').join('');

async function settled(base) {
  const end = Date.now() + 10_000;
  let busy = ['?'];
  while (busy.length && Date.now() < end) {
    const page = await (await fetch(`${base}/metrics`)).text();
    busy = page.split('\n').filter((line) =>
      /^(headgate_calls_in_flight|headgate_calls_waiting|vllm:num_requests_(running|waiting)) /.test(line)
      && Number(line.split(' ')[1]) > 0);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.deepEqual(busy, []);
}

test('a chat answers', async () => {
  const answer = await chat({ max_tokens: 12 });
  assert.equal(answer.object, 'chat.completion');
  assert.equal(answer.choices[0].message.role, 'assistant');
  assert.ok(answer.usage.completion_tokens > 0);
  assert.match(answer._request_id, /^req_/);
});

test('a stream begins with the role, ends with a reason, and says the same as the whole answer', async () => {
  const whole = await chat({ temperature: 0, max_tokens: 24 });
  const pieces = await all(chat({ temperature: 0, max_tokens: 24, stream: true }));
  assert.equal(pieces[0].choices[0].delta.role, 'assistant');
  assert.equal(text(pieces), whole.choices[0].message.content);
  assert.equal(pieces.at(-1).choices[0].finish_reason, whole.choices[0].finish_reason);
  assert.ok(pieces.every((piece) => !('usage' in piece)));
});

test('usage comes last, without choices, when asked', async () => {
  const pieces = await all(chat({ max_tokens: 8, stream: true, stream_options: { include_usage: true } }));
  const last = pieces.pop();
  assert.ok(pieces.every((piece) => piece.usage === null));
  assert.deepEqual(last.choices, []);
  assert.ok(last.usage.total_tokens > 0);
});

test('the helper of the SDK gathers a stream with a tool call', async () => {
  const name = 'get_weather';
  const tools = [{ type: 'function', function: { name, parameters: { type: 'object', properties: {} } } }];
  const stream = client.chat.completions.stream({
    ...script({ tool: name, arguments: { city: 'Zürich 東' } }), tools, tool_choice: { type: 'function', function: { name } },
  });
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].finish_reason, 'tool_calls');
  const call = final.choices[0].message.tool_calls[0];
  assert.equal(call.function.name, name);
  assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Zürich 東' });
});

test('n, seed, stop, logprobs and max_tokens do what they say', async () => {
  const fields = { n: 2, seed: 7, temperature: 1.5, max_tokens: 16 };
  const [one, two] = [await chat(fields), await chat(fields)];
  assert.deepEqual(one.choices.map((choice) => choice.index), [0, 1]);
  assert.deepEqual(one.choices, two.choices);
  const whole = (await chat({ temperature: 0, max_tokens: 24 })).choices[0].message.content;
  const stop = whole.slice(3, 5);
  const stopped = (await chat({ temperature: 0, max_tokens: 24, stop })).choices[0];
  assert.equal(stopped.message.content, whole.slice(0, whole.indexOf(stop)));
  const told = (await chat({ logprobs: true, top_logprobs: 2, max_tokens: 4 })).choices[0].logprobs.content;
  assert.ok(told.length > 0 && told.every((token) => token.logprob <= 0 && token.top_logprobs.length === 2));
  const cut = await chat({ max_tokens: 1, ignore_eos: true });
  assert.equal(cut.choices[0].finish_reason, 'length');
});

test('texts are completed, models found, embeddings forwarded', async () => {
  const prompt = { model, prompt: 'Once', max_tokens: 6, temperature: 0 };
  const whole = await client.completions.create(prompt);
  const pieces = await all(client.completions.create({ ...prompt, stream: true }));
  assert.equal(pieces.map((piece) => piece.choices[0].text).join(''), whole.choices[0].text);
  const models = await all(client.models.list());
  assert.ok(models.some((found) => found.id === model));
  assert.equal((await client.models.retrieve(model)).id, model);
  const made = await client.embeddings.create({ model: 'scripted', input: ['a', 'b'], dimensions: 4 });
  assert.equal(made.data.length, 2);
  assert.equal(made.data[0].embedding.length, 4);
});

test('errors are of the types that users catch', async () => {
  const cases = [
    [OpenAI.NotFoundError, () => chat({ model: 'nobody' }), 'model_not_found'],
    [OpenAI.BadRequestError, () => chat({ temperature: 9 }), 'invalid_value'],
    [OpenAI.RateLimitError, () => chat({ model: 'status:code=429' }), undefined],
    [OpenAI.AuthenticationError, () => make('wrong').models.list(), 'invalid_api_key'],
  ];
  for (const [kind, act, code] of cases) {
    const error = await act().then(() => assert.fail('it succeeded'), (raised) => raised);
    assert.ok(error instanceof kind, `${error}`);
    assert.match(error.requestID, /^req_/);
    if (code) assert.equal(error.code, code);
  }
  await assert.rejects(all(chat({ model: 'reset_in_stream', stream: true })), OpenAI.APIError);
});

test('leaving ends the work: by breaking off, by aborting, and before the answer began', async () => {
  const endless = { max_tokens: 1500, temperature: 2, ignore_eos: true, stream: true };
  for await (const piece of await chat(endless)) {
    assert.ok(piece);
    break;
  }
  const controller = new AbortController();
  const waiting = client.chat.completions.create(script({ never_finish: true, tokens: 1 }), { signal: controller.signal });
  setTimeout(() => controller.abort(), 50);
  await assert.rejects(waiting, OpenAI.APIUserAbortError);
  for (const base of [url, process.env.HEADGATE_BACK]) await settled(base);
});
