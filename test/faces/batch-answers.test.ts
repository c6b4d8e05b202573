/**
 * How large the answers to batches are: never larger than clients take by default, and where they
 * would be, that is known before any item is done.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type { MethodDefinition } from '@grpc/grpc-js';
import { KeywardError, REASONS, type Reason } from '../../src/errors.ts';
import { SHORT_ERROR_BYTES, shortened } from '../../src/faces/contract/batches.ts';
import { serialize, serviceDefinition } from '../../src/faces/contract/proto.ts';
import { toStatus } from '../../src/faces/contract/status.ts';
import { type Answer, call, detailsOf, grpcFrame } from '../faults/http2.ts';
import { type HostileService, KEY, PARENT, startHostile } from '../hostile/service.ts';
import { runSql } from '../store/database.ts';
import { eventually } from '../support/kit.ts';

/** What clients of gRPC take unless they are told otherwise. */
const LIMIT = 4_194_304;
const ITEMS = 1_000;
const SERVICE = 'keyward.v1.EncryptionService';

type Item = Readonly<Record<string, unknown>>;
interface Result {
  readonly response?: Readonly<Record<string, unknown>>;
  readonly error?: { readonly code: number; readonly message: string };
}

let hostile: HostileService;

before(async () => {
  hostile = await startHostile({ KEYWARD_DEADLINE_MS: '60000' });
});

after(() => hostile?.[Symbol.asyncDispose]());

function methodOf(
  method: string,
): MethodDefinition<object, { readonly results: readonly Result[] }> {
  return serviceDefinition(SERVICE)[method] as MethodDefinition<
    object,
    { readonly results: readonly Result[] }
  >;
}

/** The answer to a batch, with how long both messages were. */
async function ask(
  method: string,
  requests: readonly Item[],
): Promise<Answer & { readonly asked: number }> {
  const message = methodOf(method).requestSerialize({ parent: PARENT, requests });
  let answer: Answer | undefined;
  await hostile.staysHonest(async (session) => {
    answer = await call(session, { path: `/${SERVICE}/${method}`, body: [grpcFrame(message)] });
    return [];
  });
  assert.ok(answer);
  return { ...answer, asked: message.length };
}

function resultsOf(method: string, { status, message, body }: Answer): readonly Result[] {
  assert.equal(status, 0, message);
  return methodOf(method).responseDeserialize(body.subarray(5)).results;
}

const times = (count: number, item: Item) => Array.from({ length: count }, () => item);

/** What the audit log has of a method's calls, the oldest first. */
async function entries(method: string): Promise<{ outcome: string; items: number }[]> {
  const rows = await runSql<{ leaf: string }>(
    hostile.environment.urls.superuser,
    'SELECT leaf FROM audit_log ORDER BY leaf_index',
  );
  return rows
    .map(({ leaf }) => JSON.parse(leaf))
    .filter((entry) => entry.method === `${SERVICE}/${method}`)
    .map(({ outcome, items = [] }) => ({ outcome, items: items.length }));
}

/** What of the largest answer there is for each of so many items. */
const PER_ITEM = Math.floor(LIMIT / ITEMS);

describe('a batch whose answer clients would not take', () => {
  test('is refused before any item is done, with the field and the limit', async () => {
    const requests = times(ITEMS, { name: KEY, plaintext: Buffer.alloc(PER_ITEM - 45) });
    const answer = await ask('BatchEncrypt', requests);
    assert.ok(answer.asked <= LIMIT, String(answer.asked));
    assert.deepEqual(
      [answer.reason, answer.fields, answer.metadata],
      ['MESSAGE_TOO_LARGE', ['requests'], { limit: String(LIMIT) }],
    );
    assert.match(
      answer.message,
      /^requests: must be fewer: an answer could have \d+ bytes, and 4194304 at most/,
    );
    assert.equal(answer.retryAfterMs, undefined);
    await eventually(async () => {
      assert.deepEqual(await entries('BatchEncrypt'), [{ outcome: 'MESSAGE_TOO_LARGE', items: 0 }]);
    });
  });

  test('is refused for ReEncrypt, too, whose answers name two versions', async () => {
    const requests = times(ITEMS, { name: KEY, ciphertext: Buffer.alloc(PER_ITEM - 50) });
    const answer = await ask('BatchReEncrypt', requests);
    assert.ok(answer.asked <= LIMIT, String(answer.asked));
    assert.deepEqual([answer.reason, answer.fields], ['MESSAGE_TOO_LARGE', ['requests']]);
  });
});

describe('a batch whose answer clients take', () => {
  /** What an item's result has besides the payload: at most, and what of it can be missing. */
  const OF_RESULT = { tags: 3 + 3 + 3, numbers: 6 + 2, digits: 9 };
  const version = `${KEY}/versions/1`;

  test('is done up to the limit, and its answer is as large as was said, or a little smaller', async () => {
    const besides = OF_RESULT.tags + OF_RESULT.numbers + 2 + version.length + OF_RESULT.digits;
    const plaintext = Buffer.alloc(PER_ITEM - besides - 116);
    const answer = await ask(
      'BatchEncrypt',
      times(ITEMS, { name: KEY, plaintext, plaintextCrc32c: undefined }),
    );
    const results = resultsOf('BatchEncrypt', answer);
    assert.ok(answer.body.length - 5 <= LIMIT);
    assert.ok(answer.body.length > LIMIT - ITEMS * 20, String(answer.body.length));

    const ciphertexts = results.map(({ response }) => response?.['ciphertext'] as Buffer);
    const opened = await ask(
      'BatchDecrypt',
      ciphertexts.map((ciphertext) => ({ parent: PARENT, ciphertext })),
    );
    for (const { response } of resultsOf('BatchDecrypt', opened))
      assert.deepEqual(response?.['plaintext'], plaintext);
    const again = await ask(
      'BatchReEncrypt',
      ciphertexts.slice(0, 900).map((ciphertext) => ({ name: KEY, ciphertext })),
    );
    assert.ok(resultsOf('BatchReEncrypt', again).every(({ response }) => response));
    const one = await ask(
      'BatchEncrypt',
      times(ITEMS, { name: KEY, plaintext: Buffer.alloc(plaintext.length + 1) }),
    );
    assert.equal(one.reason, 'MESSAGE_TOO_LARGE');
  });

  test('has errors in their reasons’ own words where all that there is to say does not fit', async () => {
    const plaintexts = times(63, { name: KEY, plaintext: Buffer.alloc(65_536) });
    const large = resultsOf('BatchEncrypt', await ask('BatchEncrypt', plaintexts)).map(
      ({ response }) => ({
        name: KEY,
        ciphertext: response?.['ciphertext'],
      }),
    );
    const wrong = times(110, {
      name: 'K',
      sourceKey: 'K',
      sourceEncryptionContext: { '': '' },
      destinationEncryptionContext: { '': '' },
    });
    const [alone] = resultsOf('BatchReEncrypt', await ask('BatchReEncrypt', wrong.slice(0, 1)));
    assert.match(
      alone?.error?.message ?? '',
      /^name: .*; source_encryption_context: .*; source_key: /,
    );
    const answer = await ask('BatchReEncrypt', [...large, ...wrong]);
    assert.ok(answer.body.length - 5 <= LIMIT);
    const results = resultsOf('BatchReEncrypt', answer);
    assert.ok(results.slice(0, 63).every(({ response }) => response));
    for (const { error } of results.slice(63)) {
      assert.ok(error);
      const { reason, fields } = detailsOf(serialize('google.rpc.Status', error));
      assert.deepEqual(
        [reason, fields, error.message],
        ['INVALID_FIELD', [], REASONS.INVALID_FIELD.message],
      );
    }
  });
});

describe('an item’s error', () => {
  test('in its reason’s own words has as many bytes as are kept free for it, or fewer', () => {
    const id = '6f1f9d5e-0a52-4a6b-8e1c-2d3a8f5b7c90';
    for (const reason of Object.keys(REASONS) as Reason[]) {
      const error = new KeywardError(reason, {
        message: 'x'.repeat(5_000),
        retryAfterMs: 2_147_483_647,
      });
      const status = serialize('google.rpc.Status', toStatus(shortened(error), { id }));
      assert.ok(status.length <= SHORT_ERROR_BYTES, `${reason}: ${status.length}`);
    }
  });
});
