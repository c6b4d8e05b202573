/**
 * Where the command waits for what the sign-off page answers: it takes one answer, at a path that
 * only the page is told, and nothing else that comes to the port.
 */
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { describe, test } from 'node:test';
import { type Answer, signOff } from '../../cli/src/sign-off.ts';

const PAGE = 'https://keyward.example.com:8443/sign-off';

interface Waiting {
  readonly returnTo: URL;
  readonly answer: Promise<Answer>;
}

/** Has the command wait; where the page is to answer, and the answer. */
async function wait(): Promise<Waiting> {
  let answer: Promise<Answer> | undefined;
  const told = await new Promise<string>((tell, fail) => {
    answer = signOff(PAGE, { kind: 'decide' }, { browser: false, withinMs: 60_000, tell });
    answer.catch(fail);
  });
  const [, fragment = ''] = told.split('#');
  const order = JSON.parse(String(Buffer.from(fragment, 'base64url')));
  assert.equal(order.kind, 'decide');
  if (answer === undefined) throw new Error('the command waits for nothing');
  return { returnTo: new URL(order.returnTo), answer };
}

interface Sent {
  readonly method?: string;
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** Sends a request to the port; returns its status, 0 where it was cut off. */
function send({ returnTo }: Waiting, sent: Sent = {}): Promise<number> {
  const { method = 'POST', path = returnTo.pathname, headers = {}, body = 'signature=abc' } = sent;
  return new Promise((resolve) => {
    const { hostname, port } = returnTo;
    const asked = request({ hostname, port, method, path, headers, agent: false });
    asked.on('error', () => resolve(0));
    asked.on('response', (response) => {
      response.resume();
      response.on('close', () => resolve(response.statusCode ?? 0));
    });
    asked.end(method === 'POST' ? body : undefined);
  });
}

describe('where the command waits', () => {
  test('the first answer of the page is taken, and no other', async () => {
    const waiting = await wait();
    const outcomes = await Promise.all([send(waiting), send(waiting), send(waiting)]);
    assert.equal(outcomes.filter((status) => status === 200).length, 1);
    assert.deepEqual(Object.fromEntries(await waiting.answer), { signature: 'abc' });
    assert.equal(await send(waiting), 0);
  });

  for (const [what, status, sent] of [
    ['another path', 404, { path: '/' }],
    ['a path that is nearly the one', 404, { path: `/${'a'.repeat(32)}` }],
    ['another name of the host, as by DNS rebinding', 404, { headers: { host: 'evil.example' } }],
    ['no form but a look', 405, { method: 'GET' }],
    ['a form of another page', 403, { headers: { origin: 'https://evil.example' } }],
    ['an answer beyond 64 KiB', 400, { body: `a=${'b'.repeat(65_536)}` }],
  ] as const)
    test(`${what} is not the answer, which still can come`, async () => {
      const waiting = await wait();
      assert.equal(await send(waiting, sent), status);
      assert.equal(await send(waiting, { headers: { origin: new URL(PAGE).origin } }), 200);
      assert.equal((await waiting.answer).get('signature'), 'abc');
    });

  test('an order and its way back are in the fragment, of which the way back is never twice', async () => {
    const [one, other] = [await wait(), await wait()];
    assert.notEqual(one.returnTo.pathname, other.returnTo.pathname);
    await Promise.all([send(one), send(other), one.answer, other.answer]);
  });

  for (const page of ['http://keyward.example.com/sign-off', 'ftp://a/', 'nonsense', `${PAGE}#a`])
    test(`a page at ${page} is not opened`, async () => {
      const options = { browser: false, withinMs: 60_000, tell: () => {} };
      await assert.rejects(signOff(page, {}, options), /must be at an https:\/\/ URL/);
    });
});
