/**
 * What a witness is asked, to the byte, and whatever it may answer: a server on the other end, and
 * a log of the test's own.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, describe, it } from 'node:test';
import fc from 'fast-check';
import { HASH_BYTES, TreeEdge, TreeReader } from '../../src/audit/tree.ts';
import { addCheckpoint } from '../../src/audit/witness-client.ts';
import { cosignaturesOf, parseWitnesses } from '../../src/audit/witnesses.ts';
import { HttpWitness } from './http-witness.ts';
import {
  checkpointText,
  leafHashOf,
  merkleTreeHash,
  newLogKey,
  newWitness,
  sha256,
  signed,
} from './log.ts';

const NEVER = new AbortController().signal;
const NOTE = signed(checkpointText(7, sha256()), newLogKey());

describe('a witness’ answer', () => {
  let respond: (response: ServerResponse) => void;
  const server = createServer((request, response) => {
    request.resume();
    request.once('end', () => respond(response));
  });
  let url: string;
  before(async () => {
    await once(server.listen(0, '127.0.0.1'), 'listening');
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(() => {
    server.closeAllConnections();
    server.close();
  });

  const ask = (signal = NEVER) => addCheckpoint(url, { oldSize: 0, proof: [], note: NOTE }, signal);
  const answering = (status: number, body = '', headers: Record<string, string> = {}) => {
    respond = (response) => response.writeHead(status, headers).end(body);
    return ask();
  };
  const size = (body: string, type = 'text/x.tlog.size') =>
    answering(409, body, { 'content-type': type });

  it('is a cosignature, the size that it has, or that the trees differ', async () => {
    assert.deepEqual(await answering(200, '— w c2ln\n'), { kind: 'cosigned', lines: '— w c2ln\n' });
    assert.deepEqual(await size('0\n'), { kind: 'elsewhere', size: 0 });
    assert.deepEqual(await size('20852163\n'), { kind: 'elsewhere', size: 20_852_163 });
    assert.deepEqual(await size('7\n', 'text/plain'), { kind: 'inconsistent' });
    assert.deepEqual(await answering(422), { kind: 'inconsistent' });
  });

  it('of any other status is a failure, and is followed nowhere', async () => {
    for (const status of [201, 204, 400, 403, 404, 429, 500, 503])
      await assert.rejects(answering(status), new RegExp(`it answers with status ${status}`));
    for (const status of [301, 302, 307, 308])
      await assert.rejects(
        answering(status, '', { location: `${url}/elsewhere` }),
        /it answers with status 30/,
      );
  });

  it('with what is no size is a failure', async () => {
    for (const body of [
      '',
      '7',
      '07\n',
      '+7\n',
      '-7\n',
      '7\n\n',
      ' 7\n',
      '7e1\n',
      '0x7\n',
      '9007199254740993\n',
      'a\n',
    ])
      await assert.rejects(size(body), /is not a tree size/, JSON.stringify(body));
  });

  it('without an end is a failure, and so is none that comes before the service ends', async () => {
    respond = (response) => {
      const more = () => {
        if (!response.destroyed) response.write('—'.repeat(10_000), more);
      };
      more();
    };
    await assert.rejects(ask(), /too large/);
    const stopping = new AbortController();
    respond = () => stopping.abort();
    await assert.rejects(ask(stopping.signal), { name: 'AbortError' });
    respond = (response) => response.destroy();
    await assert.rejects(ask(), /fetch failed/);
  });

  it('is an answer or an Error, whatever comes', async () => {
    const anything = fc.record({
      status: fc.oneof(fc.constantFrom(200, 409, 422), fc.integer({ min: 200, max: 599 })),
      type: fc.constantFrom('text/x.tlog.size', 'text/plain', 'text/x.tlog.size; charset=utf-8'),
      body: fc.oneof(
        fc.string({ unit: 'binary' }),
        fc.nat().map((n) => `${n}\n`),
      ),
    });
    await fc.assert(
      fc.asyncProperty(anything, async ({ status, type, body }) => {
        const answer = await answering(status, body, { 'content-type': type }).catch(
          (error: unknown) => error,
        );
        const isAnswer =
          answer instanceof Error ||
          ['cosigned', 'elsewhere', 'inconsistent'].includes((answer as { kind: string }).kind);
        assert.ok(isAnswer, String(answer));
      }),
      { numRuns: 200 },
    );
  });
});

it('a witness takes the proof from any size to any other, by the tiles alone', async () => {
  await using witness = await HttpWitness.start('witness.test');
  const key = newLogKey();
  witness.trust(key.publicPem);
  const [configured] = parseWitnesses(witness.line);
  assert.ok(configured?.url);
  const { url } = configured;
  const leaves = Array.from({ length: 1_500 }, (_, index) => leafHashOf(String(index)));
  const tiles = new Map<string, Buffer>();
  const begun = await TreeEdge.read(0, async () => undefined);
  for (const { level, index, hashes } of begun.append(Buffer.concat(leaves)).tiles)
    tiles.set(`${level}/${index}`, hashes);
  const sizes = fc.tuple(fc.integer({ min: 1, max: 1_500 }), fc.integer({ min: 0, max: 1_500 }));
  const around = fc.constantFrom<[number, number][]>(
    [256, 256],
    [1_500, 0],
    [257, 256],
    [1_024, 512],
    [1_025, 1_024],
  );
  await fc.assert(
    fc.asyncProperty(fc.oneof(sizes, around), async ([one, other]) => {
      const [oldSize, size] = one < other ? [one, other] : [other, one];
      const text = checkpointText(size, merkleTreeHash(leaves.slice(0, size)));
      witness.seen.clear();
      if (oldSize > 0)
        witness.seen.set(text.split('\n')[0] ?? '', {
          size: oldSize,
          root: merkleTreeHash(leaves.slice(0, oldSize)),
        });
      const reader = new TreeReader(async (level, index) => tiles.get(`${level}/${index}`));
      const proof = oldSize === 0 ? [] : await reader.consistencyProof(oldSize, size);
      const answer = await addCheckpoint(url, { oldSize, proof, note: signed(text, key) }, NEVER);
      assert.equal(answer.kind, 'cosigned');
      const lines = answer.kind === 'cosigned' ? answer.lines.trim().split('\n') : [];
      assert.equal(cosignaturesOf(text, lines, [configured])?.length, 1);
      assert.ok(proof.every((hash) => hash.length === HASH_BYTES));
    }),
    { numRuns: 150 },
  );
  assert.deepEqual(witness.violations, []);
});

it('any two sizes have a proof of at most 54 hashes, fewer than a witness may refuse', async () => {
  const everywhere = Buffer.alloc(256 * HASH_BYTES);
  const reader = new TreeReader(async () => everywhere);
  const size = fc.oneof(
    fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
    fc.integer({ min: 1, max: 53 }).map((exponent) => 2 ** exponent - 1),
  );
  await fc.assert(
    fc.asyncProperty(size, size, async (one, other) => {
      const proof = await reader.consistencyProof(Math.min(one, other), Math.max(one, other));
      assert.ok(proof.length <= 54, `${proof.length} hashes`);
    }),
    { numRuns: 200 },
  );
});

describe('a file of witnesses', () => {
  const { verifierKey } = newWitness('witness.test/w1');

  it('names them a line each, with the URL that they are asked at, or without', () => {
    const text = `# comment\n${verifierKey}\n\n ${verifierKey}  https://witness.test/a/b/ \r\n${verifierKey}\thttp://[::1]:8080`;
    const witnesses = parseWitnesses(text);
    assert.deepEqual(
      witnesses.map(({ name, url }) => [name, url]),
      [
        ['witness.test/w1', undefined],
        ['witness.test/w1', 'https://witness.test/a/b'],
        ['witness.test/w1', 'http://[::1]:8080'],
      ],
    );
    assert.deepEqual(parseWitnesses('# none yet\n'), []);
    assert.throws(() => parseWitnesses('\n'), /is empty/);
  });

  it('is refused with the number of the line, and without a password that it has', () => {
    const wrong = {
      witness: /^line 3: "witness" must be a cosigner’s verifier key/,
      [verifierKey.replace('+', '+0')]: /^line 3: .* must be a cosigner’s verifier key/,
      [`${verifierKey} witness.test`]: /^line 3: the witness’s URL must be http: or https:$/,
      [`${verifierKey} file:///witness`]: /^line 3: the witness’s URL must be http: or https:$/,
      [`${verifierKey} https://me:secret@witness.test`]:
        /^line 3: the witness’s URL must have no user/,
      [`${verifierKey} https://witness.test/?a`]: /^line 3: .* query/,
      [`${verifierKey} https://witness.test/#`]: /^line 3: .* fragment/,
      [`${verifierKey} https://witness.test https://other.test`]:
        /^line 3: must have a verifier key and at most a URL/,
    };
    for (const [line, why] of Object.entries(wrong))
      assert.throws(
        () => parseWitnesses(`# one\n\n${line}\n`),
        ({ message }: Error) => why.test(message) && !message.includes('secret'),
        line,
      );
  });
});

it('a cosignature of a time that no verifier takes is none', () => {
  const witness = newWitness('witness.test');
  const configured = parseWitnesses(witness.verifierKey);
  const text = checkpointText(7, sha256());
  const cosigned = (seconds: number) =>
    cosignaturesOf(text, [witness.cosign(text, seconds).trim()], configured);
  assert.equal(cosigned(8_640_000_000_000)?.length, 1);
  assert.equal(cosigned(8_640_000_000_001), undefined);
});
