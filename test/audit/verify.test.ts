import assert from 'node:assert/strict';
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import fc from 'fast-check';
import { readAuditEntry, verifyAuditExport } from '../../client/src/index.ts';
import { drawHere, SEED } from '../support/random.ts';
import { type Given, type Outcome, PYTHON, verdict } from './both.ts';
import {
  checkpointOver,
  checkpointText,
  type ExportFacts,
  entryLine,
  entryLines,
  leafHashOf,
  merkleTreeHash,
  newLogKey,
  newWitness,
  ORIGIN,
  signatureLine,
  signed,
  writeExport,
} from './log.ts';

const key = newLogKey();
const publicKeys = [key.publicPem];
const folders: string[] = [];
/** How many damages of each kind are drawn; more in `test/long/audit-damages.test.ts`. */
const DAMAGES = Number(process.env['KEYWARD_TEST_DAMAGES'] ?? 10);

after(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'keyward-export-'));
  folders.push(folder);
  return folder;
}

/** An export of a log with these lines. */
function exported(facts: Omit<ExportFacts, 'key'>): string {
  const folder = newFolder();
  writeExport(folder, { key, ...facts });
  return folder;
}

/** An export's copy, to be damaged. */
function copied(folder: string): string {
  const copy = newFolder();
  cpSync(folder, copy, { recursive: true });
  return copy;
}

const check = (folder: string, given: Partial<Given> = {}) =>
  verdict(folder, { publicKeys, ...given });

function rootOf(lines: readonly string[]): string {
  return merkleTreeHash(lines.map(leafHashOf)).toString('hex');
}

/** The lines of an export's only file of entries, changed. */
function changeLines(
  folder: string,
  first: number,
  change: (lines: string[]) => readonly string[],
): void {
  const file = join(folder, 'entries', `${first}.jsonl`);
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1);
  writeFileSync(
    file,
    change(lines)
      .map((line) => `${line}\n`)
      .join(''),
  );
}

function flip(file: string, at: number): void {
  const bytes = readFileSync(file);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  writeFileSync(file, bytes);
}

it('is compared with a verifier in Python', {
  skip: PYTHON ? false : 'there is no python3',
}, async () => {
  assert.deepEqual(await check(exported({ lines: [] })), { verified: 0, root: rootOf([]) });
});

describe('a good export', () => {
  it('verifies at every size and from every tile on, and says what it is', async () => {
    for (const size of [0, 1, 2, 3, 255, 256, 257, 511, 512, 1000]) {
      const lines = entryLines(size);
      for (const first of new Set([0, 256, 512, size].filter((begin) => begin <= size))) {
        const folder = exported({ lines, first });
        assert.deepEqual(
          await check(folder),
          { verified: size - first, root: rootOf(lines) },
          `${first} to ${size}`,
        );
        const { origin, treeSize, firstLeafIndex } = await verifyAuditExport(folder, {
          publicKeys,
        });
        assert.deepEqual([origin, treeSize, firstLeafIndex], [ORIGIN, size, first]);
      }
    }
  });

  it('case 97: verifies whatever texts are in its entries: each stays one line, and is read as it was', async () => {
    const text = fc.string({ unit: 'binary' });
    const odd = fc.oneof(
      text,
      fc.constantFrom('a\nb', '\r\n', '\u0000', '\u0085\u2028\u2029', '"}\n{"v":1'),
    );
    const facts = fc.record({ caller: odd, resource: odd, context: fc.dictionary(odd, odd) });
    await fc.assert(
      fc.asyncProperty(fc.array(facts, { minLength: 1, maxLength: 20 }), async (many) => {
        const lines = many.map((one, index) => entryLine(index, one));
        for (const [index, line] of lines.entries()) {
          assert.doesNotMatch(line, /\n/);
          const { caller, resource, context } = readAuditEntry({ leaf: Buffer.from(line) });
          // What is no Unicode text is no text in UTF-8.
          const expected = JSON.parse(JSON.stringify(many[index]));
          assert.deepEqual({ caller, resource, context }, expected);
        }
        assert.deepEqual(await check(exported({ lines })), {
          verified: lines.length,
          root: rootOf(lines),
        });
      }),
      { numRuns: 20 },
    );
  });

  it('reports how far it is, and stops when told to', async () => {
    const folder = exported({ lines: entryLines(3000), first: 256 });
    const seen: [number, number][] = [];
    await verifyAuditExport(folder, {
      publicKeys,
      onProgress: (done, total) => seen.push([done, total]),
    });
    assert.deepEqual(seen.at(-1), [2744, 2744]);
    const signal = AbortSignal.abort(new Error('enough'));
    await assert.rejects(verifyAuditExport(folder, { publicKeys, signal }), { name: 'AbortError' });
  });
});

describe('case 93: an export that was damaged', () => {
  /** Sizes with last tiles of every kind. */
  const logs = [1, 2, 200, 256, 257, 700].map((size) => {
    const lines = entryLines(size);
    return {
      lines,
      folder: exported({ lines }),
      from: size > 256 ? exported({ lines, first: 256 }) : undefined,
    };
  });
  const anyLog = fc.constantFrom(
    ...logs.flatMap(({ lines, folder, from }) => [
      { lines, folder, first: 0 },
      ...(from === undefined ? [] : [{ lines, folder: from, first: 256 }]),
    ]),
  );

  /**
   * Damages a copy of a log as `damage` does, and compares what both verifiers say of it with what
   * it says.
   */
  function finds(
    damage: (
      folder: string,
      log: { first: number; count: number },
      at: number,
      other: number,
    ) => Outcome,
    runs = DAMAGES,
  ): Promise<void> {
    const property = fc.asyncProperty(
      anyLog,
      fc.nat(),
      fc.nat(),
      async ({ folder, lines, first }, at, other) => {
        const copy = copied(folder);
        const count = lines.length - first;
        const expected = damage(copy, { first, count }, at, other);
        assert.deepEqual(await check(copy), expected);
      },
    );
    return fc.assert(property, { numRuns: runs });
  }

  const entry = (leafIndex: number): Outcome => ({ problem: 'ENTRY', leafIndex });

  it('is found out where an entry was changed', () =>
    finds((folder, { first, count }, at, other) => {
      const i = at % count;
      changeLines(folder, first, (lines) => lines.with(i, changedAt(lines[i] ?? '', other)));
      return entry(first + i);
    }));

  it('is found out where an entry is missing', () =>
    finds((folder, { first, count }, at) => {
      const i = at % count;
      changeLines(folder, first, (lines) => lines.toSpliced(i, 1));
      return entry(first + i);
    }));

  it('is found out where an entry was put in, also behind the last, also one that is there already', () =>
    finds((folder, { first, count }, at, other) => {
      const i = at % (count + 1);
      changeLines(folder, first, (lines) => {
        const again = i > 0 && other % 2 === 0 ? lines[i - 1] : undefined;
        return lines.toSpliced(i, 0, again ?? entryLine(1_000_000));
      });
      return entry(first + i);
    }));

  it('is found out where entries have changed places', () =>
    finds((folder, { first, count }, at, other) => {
      const [i = 0, j = 0] = [at % count, other % count].sort((a, b) => a - b);
      if (i === j) {
        changeLines(folder, first, (lines) => lines.with(i, ''));
        return entry(first + i);
      }
      changeLines(folder, first, (lines) => lines.with(i, lines[j] ?? '').with(j, lines[i] ?? ''));
      return entry(first + i);
    }));

  it('is found out where its tail was cut off, also in the middle of a line, also all of it', () =>
    finds((folder, { first, count }, at, other) => {
      const i = at % count;
      const file = join(folder, 'entries', `${first}.jsonl`);
      const lines = readFileSync(file, 'utf8').split('\n');
      const left = lines.slice(0, i).map((line) => `${line}\n`);
      const part = (lines[i] ?? '').slice(0, other % ((lines[i] ?? '').length + 1));
      if (i === 0 && other % 3 === 0) rmSync(file);
      else writeFileSync(file, left.join('') + part);
      return entry(first + i);
    }));

  it('is found out where something without a newline stands behind its last entry', () =>
    finds(
      (folder, { first, count }) => {
        appendFileSync(join(folder, 'entries', `${first}.jsonl`), '{}');
        return entry(first + count);
      },
      Math.ceil(DAMAGES / 5),
    ));

  it('is found out where a line does not end, before memory does', async () => {
    const folder = exported({ lines: entryLines(3) });
    truncateSync(join(folder, 'entries/0.jsonl'), 17_179_869_184);
    await assert.rejects(verifyAuditExport(folder, { publicKeys }), {
      problem: 'ENTRY',
      leafIndex: 3,
    });
  });

  it('is found out where a tile was changed, cut or taken away', () =>
    finds((folder, { first, count }, at, other) => {
      const tiles = tileFiles(first + count);
      const { path, isLast } = tiles[at % tiles.length] ?? { path: '', isLast: false };
      const file = join(folder, path);
      if (other % 3 === 0) rmSync(file);
      else if (other % 3 === 1) writeFileSync(file, readFileSync(file).subarray(1));
      else flip(file, other % readFileSync(file).length);
      return other % 3 === 2 && isLast ? { problem: 'ROOT' } : { problem: 'TILE', file: path };
    }, 2 * DAMAGES));

  it('is found out where its checkpoint was changed anywhere', () =>
    finds((folder, _log, at) => {
      const file = join(folder, 'checkpoint');
      flip(file, at % readFileSync(file).length);
      return { problem: 'CHECKPOINT' };
    }, 4 * DAMAGES));

  it('is found out where all was made anew but the signature', async () => {
    const lines = entryLines(300);
    const other = newLogKey();
    const changed = lines.with(7, entryLine(7, { outcome: 'DENIED' }));
    const checkpoints: [what: string, checkpoint: string, problem: string][] = [
      ['by another key', checkpointOver(changed, other), 'CHECKPOINT'],
      [
        'by another key under its key ID',
        checkpointOver(changed, { ...other, keyId: key.keyId }),
        'CHECKPOINT',
      ],
      ['of before', checkpointOver(lines, key), 'ROOT'],
      ['of another size', checkpointOver(lines.slice(0, 299), key), 'EXPORT'],
      ['of another log', checkpointOver(changed, key, `${ORIGIN}/2`), 'EXPORT'],
    ];
    for (const [what, checkpoint, problem] of checkpoints) {
      assert.deepEqual(await check(exported({ lines: changed, checkpoint })), { problem }, what);
    }
  });

  it('names the tile where a tile was made to fit a changed entry, and says when entries are right all the same', async () => {
    const lines = entryLines(600);
    const changed = lines.with(300, entryLine(300, { outcome: 'DENIED' }));
    const file = 'tile/0/001';
    const good = exported({ lines });
    const bad = exported({ lines: changed });
    const fitted = copied(good);
    for (const path of [file, 'entries/0.jsonl']) cpSync(join(bad, path), join(fitted, path));
    assert.deepEqual(await check(fitted), { problem: 'TILE', file });
    await assert.rejects(
      verifyAuditExport(fitted, { publicKeys }),
      /of the entries 256 to 511, one at least is not what was logged/,
    );
    const tileOnly = copied(good);
    cpSync(join(bad, file), join(tileOnly, file));
    assert.deepEqual(await check(tileOnly), { problem: 'TILE', file });
    await assert.rejects(
      verifyAuditExport(tileOnly, { publicKeys }),
      /the entries 256 to 511 are right all the same/,
    );
  });

  it('says in words what has happened to the first wrong entry, as far as it can tell', async () => {
    const lines = entryLines(600);
    const good = exported({ lines });
    const cases: [change: (lines: string[]) => string[], words: RegExp][] = [
      [(l) => l.with(300, entryLine(9999)), /^entry 300: its line is not what was logged$/],
      [(l) => l.toSpliced(300, 1), /^entry 300: it is missing: in its place is the next one$/],
      [
        (l) => l.toSpliced(300, 0, entryLine(9999)),
        /^entry 300: a line stands before it that was never logged there$/,
      ],
      [(l) => l.with(300, l[17] ?? ''), /^entry 300: in its place is entry 17$/],
      [(l) => l.slice(0, 300), /^entry 300: entries\/0.jsonl ends before it$/],
    ];
    for (const [change, words] of cases) {
      const folder = copied(good);
      changeLines(folder, 0, change);
      await assert.rejects(verifyAuditExport(folder, { publicKeys }), { message: words });
    }
  });

  it('is found out where its description or its files are others', async () => {
    const good = exported({ lines: entryLines(300), first: 256 });
    const description = JSON.parse(readFileSync(join(good, 'export.json'), 'utf8'));
    const described: [what: string, text: string | undefined][] = [
      ['missing', undefined],
      ['no JSON', '{'],
      ['null', 'null'],
      ...[
        { format: 2 },
        { treeSize: 299 },
        { treeSize: '300' },
        { firstLeafIndex: 255 },
        { firstLeafIndex: 512 },
        { firstLeafIndex: -256 },
        { firstLeafIndex: false },
        { firstLeafIndex: 0.5 },
        { treeSize: null },
        { format: true },
        { origin: 'keyward/x' },
        { origin: 1 },
      ].map((change): [string, string] => [
        JSON.stringify(change),
        JSON.stringify({ ...description, ...change }),
      ]),
    ];
    // What JSON has several ways to write, and what isn't UTF-8.
    const whole = JSON.stringify(description);
    for (const [from, to] of [
      ['"treeSize":300', '"treeSize":300.0'],
      ['"treeSize":300', '"treeSize":3e2'],
      ['"treeSize":300', '"treeSize":18446744073709551616'],
      ['"firstLeafIndex":256', '"firstLeafIndex":256.0'],
      ['"firstLeafIndex":256', '"firstLeafIndex":-0'],
      ['"format":1', '"format":1.0'],
      ['"format":1', '"format":NaN'],
      ['{', '\ufeff{'],
    ] as const)
      described.push([to, whole.replace(from, to)]);
    described.push(['too long', `${whole}${' '.repeat(65_536)}`]);
    for (const [encoding, bytes] of [
      ['Latin-1', Buffer.from(whole.replace('"format"', '"ä":1,"format"'), 'latin1')],
      ['UTF-16', Buffer.from(whole, 'utf16le')],
    ] as const) {
      const folder = copied(good);
      writeFileSync(join(folder, 'export.json'), bytes);
      assert.deepEqual(await check(folder), { problem: 'EXPORT' }, encoding);
    }
    for (const [what, text] of described) {
      const folder = copied(good);
      if (text === undefined) rmSync(join(folder, 'export.json'));
      else writeFileSync(join(folder, 'export.json'), text);
      assert.deepEqual(await check(folder), { problem: 'EXPORT' }, what);
    }
    const more = copied(good);
    writeFileSync(join(more, 'entries', '300.jsonl'), 'x\n');
    assert.deepEqual(await check(more), { problem: 'FILE', file: 'entries/300.jsonl' });
    // A folder in place of a file is as good as none.
    for (const [file, outcome] of [
      ['export.json', { problem: 'EXPORT' }],
      ['checkpoint', { problem: 'CHECKPOINT' }],
      ['tile/0/001.p/44', { problem: 'TILE', file: 'tile/0/001.p/44' }],
      ['entries/256.jsonl', entry(256)],
    ] as const) {
      const folder = copied(good);
      rmSync(join(folder, file));
      mkdirSync(join(folder, file));
      assert.deepEqual(await check(folder), outcome, file);
    }
    const flat = copied(good);
    rmSync(join(flat, 'entries'), { recursive: true });
    writeFileSync(join(flat, 'entries'), '');
    assert.deepEqual(await check(flat), entry(256));
    const without = copied(good);
    rmSync(join(without, 'checkpoint'));
    assert.deepEqual(await check(without), { problem: 'CHECKPOINT' });
    // As if those before had been dropped: they were not in this export, and are missing now.
    const earlier = copied(good);
    writeFileSync(
      join(earlier, 'export.json'),
      JSON.stringify({ ...description, firstLeafIndex: 0 }),
    );
    rmSync(join(earlier, 'entries'), { recursive: true });
    assert.deepEqual(await check(earlier), entry(0));
  });
});

describe('a log of more than one file of entries', () => {
  const lines = entryLines(66_000);
  const good = exported({ lines });
  const entry = (leafIndex: number): Outcome => ({ problem: 'ENTRY', leafIndex });

  it('verifies, from its beginning and from the middle of a file', async () => {
    const root = rootOf(lines);
    assert.deepEqual(await check(good), { verified: 66_000, root });
    assert.deepEqual(await check(exported({ lines, first: 65_280 })), { verified: 720, root });
  });

  it(`is found out where it is damaged across them (seed ${SEED})`, async () => {
    const cases: [what: string, damage: (folder: string) => void, expected: Outcome][] = [
      [
        'a whole file missing',
        (folder) => rmSync(join(folder, 'entries/65536.jsonl')),
        entry(65_536),
      ],
      [
        'a line more in the first',
        (folder) => appendFileSync(join(folder, 'entries/0.jsonl'), `${lines[65_536]}\n`),
        entry(65_536),
      ],
      [
        'a line less in the first',
        (folder) => changeLines(folder, 0, (l) => l.slice(0, -1)),
        entry(65_535),
      ],
      [
        'the last line gone',
        (folder) => changeLines(folder, 65_536, (l) => l.slice(0, -1)),
        entry(65_999),
      ],
      [
        'a changed one',
        (folder) => changeLines(folder, 65_536, (l) => l.with(100, '{}')),
        entry(65_636),
      ],
      [
        'a whole tile above the leaves',
        (folder) => flip(join(folder, 'tile/1/000'), 8000),
        { problem: 'TILE', file: 'tile/1/000' },
      ],
      [
        'the root’s own tile',
        (folder) => flip(join(folder, 'tile/2/000.p/1'), 0),
        { problem: 'ROOT' },
      ],
    ];
    for (const [what, damage, expected] of drawHere(cases, 2)) {
      const folder = copied(good);
      damage(folder);
      assert.deepEqual(await check(folder), expected, what);
    }
  });
});

describe('known checkpoints', () => {
  const lines = entryLines(700);
  const folder = exported({ lines });

  it('of any earlier size, and of the same, are continued', async () => {
    const known = [0, 1, 2, 100, 255, 256, 257, 512, 513, 699, 700].map((size) =>
      checkpointOver(lines.slice(0, size), key),
    );
    assert.deepEqual(await check(folder, { known }), { verified: 700, root: rootOf(lines) });
    const later = exported({ lines, first: 512 });
    assert.deepEqual(await check(later, { known }), { verified: 188, root: rootOf(lines) });
  });

  it('of the same or an earlier size with another root prove a fork', async () => {
    for (const size of [1, 256, 300, 700]) {
      const known = [checkpointOver(lines.slice(0, size).with(0, entryLine(9999)), key)];
      assert.deepEqual(await check(folder, { known }), { problem: 'FORK' }, String(size));
    }
  });

  it('are compared by tiles that are verified first: a damaged one is no fork', async () => {
    const copy = copied(folder);
    flip(join(copy, 'tile', '0', '000'), 40);
    const earlier = [checkpointOver(lines.slice(0, 100), key)];
    const file = 'tile/0/000';
    assert.deepEqual(await check(copy, { known: earlier }), { problem: 'TILE', file });
  });

  it('of a larger size show that the end was cut off', async () => {
    const known = [checkpointOver(entryLines(701), key)];
    assert.deepEqual(await check(folder, { known }), { problem: 'CUT' });
  });

  it('of another log, or by another key, are refused', async () => {
    const anew = [checkpointOver(lines, key, `${ORIGIN}/2`)];
    assert.deepEqual(await check(folder, { known: anew }), { problem: 'ORIGIN' });
    const other = newLogKey();
    const known = [checkpointOver(lines.slice(0, 9), other)];
    assert.deepEqual(await check(folder, { known }), { problem: 'CHECKPOINT' });
    // As after a move to another token.
    const both = { publicKeys: [other.publicPem, key.publicPem], known };
    assert.deepEqual(await check(folder, both), { verified: 700, root: rootOf(lines) });
  });
});

describe('checkpoints', () => {
  const lines = entryLines(5);
  const root = merkleTreeHash(lines.map(leafHashOf));
  const text = checkpointText(5, root);
  const good = signed(text, key);
  const junk = signatureLine('elsewhere', Buffer.from('abcd'), Buffer.alloc(64));

  it('may have lines of others, before and after the log’s own', async () => {
    const [, own = ''] = good.split('\n\n');
    for (const checkpoint of [
      good + junk,
      good + junk.repeat(99),
      // No names that could be trusted; C2SP signed-note has lines of unknown keys ignored.
      ...['else where', 'a+b', '+', ' ', 'a  b', 'a\u00a0b', 'a\u2028b', '\u2014 x'].map(
        (name) => good + signatureLine(name, Buffer.from('abcd'), Buffer.alloc(64)),
      ),
      `${text}\n${junk}${own}`,
      signed(`${text}more\n`, key),
    ]) {
      assert.deepEqual(await check(exported({ lines, checkpoint })), {
        verified: 5,
        root: root.toString('hex'),
      });
    }
  });

  it('are refused when they are anything but that, whoever has signed it', async () => {
    const base64 = root.toString('base64');
    const refused: [what: string, checkpoint: string][] = [
      ['empty', ''],
      ['without signatures', `${text}\n`],
      ['signed by others alone', `${text}\n${junk}`],
      ['without a newline at the end', good.slice(0, -1)],
      ['with an empty line behind', `${good}\n`],
      ['with a carriage return', good.replaceAll('\n', '\r\n')],
      ['with a tab in the text', signed(`${text}a\tb\n`, key)],
      ...['\u007f', '\u0080', '\u0085', '\u009f', '\u0000', '\u001f'].flatMap(
        (control): [string, string][] => [
          [`with ${JSON.stringify(control)} in the text`, signed(`${text}a${control}b\n`, key)],
          [
            `with ${JSON.stringify(control)} in a name`,
            good + signatureLine(`a${control}b`, Buffer.from('abcd'), Buffer.alloc(64)),
          ],
        ],
      ),
      ['with a line without a name', `${good}\u2014  YWJjZGVm\n`],
      ['of more than 1 MiB', signed(`${text}${'a'.repeat(1_048_576)}\n`, key)],
      ['with a byte order mark', signed(`\ufeff${text}`, key, ORIGIN)],
      ['signed under another name', signed(text, key, 'elsewhere')],
      [
        'with a second signature that does not verify',
        good + signatureLine(ORIGIN, key.keyId, Buffer.alloc(70)),
      ],
      ['with a hyphen for a dash', good.replace('\u2014', '-')],
      ['with base64 that is none', good.replace(/.\n$/, '*\n')],
      ['with leading zeros', signed(`${ORIGIN}\n05\n${base64}\n`, key)],
      ['with a sign', signed(`${ORIGIN}\n+5\n${base64}\n`, key)],
      ['with a size beyond numbers', signed(`${ORIGIN}\n9007199254740993\n${base64}\n`, key)],
      ['with a size of 2^53', signed(`${ORIGIN}\n9007199254740992\n${base64}\n`, key)],
      ['with a size of 2^64', signed(`${ORIGIN}\n18446744073709551616\n${base64}\n`, key)],
      ['with a short root', signed(`${ORIGIN}\n5\n${base64.slice(4)}\n`, key)],
      ['with a root that is not canonical', signed(`${ORIGIN}\n5\n${base64.slice(0, -1)}\n`, key)],
      ['of two lines', signed(`${ORIGIN}\n5\n`, key)],
      ['with too many signatures', good + junk.repeat(100)],
      ['with an empty line within', signed(`${ORIGIN}\n5\n${base64}\n\nmore\n`, key)],
    ];
    for (const [what, checkpoint] of refused) {
      assert.deepEqual(
        await check(exported({ lines, checkpoint })),
        { problem: 'CHECKPOINT' },
        what,
      );
    }
  });

  it('are refused when they are not UTF-8', async () => {
    const folder = exported({ lines });
    const bytes = Buffer.from(good);
    writeFileSync(join(folder, 'checkpoint'), Buffer.concat([bytes, Buffer.from([0xff, 0x0a])]));
    assert.deepEqual(await check(folder), { problem: 'CHECKPOINT' });
  });

  it('count as cosigned when every witness that is asked for has signed them', async () => {
    const [one, two] = [newWitness('witness.example/one'), newWitness('witness.example/two')];
    const checkpoint =
      good +
      one.cosign(text, 1_900_000_000) +
      two.cosign(text, 1_900_000_100) +
      one.cosign(text, 1_900_000_300);
    const folder = exported({ lines, checkpoint });
    const witnesses = [one.verifierKey, two.verifierKey];
    assert.deepEqual(await check(folder, { witnesses }), {
      verified: 5,
      root: root.toString('hex'),
    });
    const { cosignatures } = await verifyAuditExport(folder, { publicKeys, witnesses });
    assert.deepEqual(cosignatures, [
      { witness: one.name, time: new Date(1_900_000_300_000) },
      { witness: two.name, time: new Date(1_900_000_100_000) },
    ]);
    const others: [what: string, witness: string, checkpoint: string][] = [
      ['beyond all times', one.verifierKey, good + one.cosign(text, 8_640_000_000_001)],
      ['one that has not', newWitness('witness.example/three').verifierKey, checkpoint],
      ['another of the name', newWitness(one.name).verifierKey, checkpoint],
      ['for another text', one.verifierKey, good + one.cosign(checkpointText(6, root), 1)],
      ['at another time', one.verifierKey, good + atAnotherTime(one.cosign(text, 7))],
    ];
    for (const [what, witness, note] of others) {
      const given = { witnesses: [witness] };
      assert.deepEqual(
        await check(exported({ lines, checkpoint: note }), given),
        { problem: 'CHECKPOINT' },
        what,
      );
    }
  });

  it('and witnesses are verified under keys that are some, or not at all', async () => {
    const folder = exported({ lines });
    const { verifierKey } = newWitness('w');
    const [name, id, typed = ''] = verifierKey.split('+');
    const bad = [
      '',
      'w',
      `${name}+00000000+${typed}`,
      `${name}+${id}+${typed.slice(4)}`,
      `${verifierKey}=`,
    ];
    for (const witness of bad) {
      await assert.rejects(
        verifyAuditExport(folder, { publicKeys, witnesses: [witness] }),
        TypeError,
        witness,
      );
    }
    for (const pem of ['', 'x', ED25519_PEM]) {
      await assert.rejects(verifyAuditExport(folder, { publicKeys: [pem] }), TypeError, pem);
    }
    assert.deepEqual(await verdictWithoutKeys(folder), 'CHECKPOINT');
  });
});

/** An Ed25519 key, which no log has. */
const ED25519_PEM = `-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n`;

async function verdictWithoutKeys(folder: string): Promise<string> {
  const outcome = await check(folder, { publicKeys: [] });
  return 'problem' in outcome ? outcome.problem : 'none';
}

/** A cosignature's line with its timestamp changed. */
function atAnotherTime(line: string): string {
  const [, name = '', text = ''] = line.trim().split(' ');
  const bytes = Buffer.from(text, 'base64');
  bytes[11] = (bytes[11] ?? 0) ^ 1;
  return signatureLine(name, bytes.subarray(0, 4), bytes.subarray(4));
}

/** The line with one character for another. */
function changedAt(line: string, at: number): string {
  const i = at % line.length;
  return `${line.slice(0, i)}${line[i] === 'x' ? 'y' : 'x'}${line.slice(i + 1)}`;
}

/** The tiles of a tree up to 65,535 leaves. */
function tileFiles(size: number): { readonly path: string; readonly isLast: boolean }[] {
  const whole = Math.floor(size / 256);
  const place = (index: number) => String(index).padStart(3, '0');
  return [
    ...Array.from({ length: whole }, (_, index) => ({
      path: `tile/0/${place(index)}`,
      isLast: false,
    })),
    ...(size % 256 > 0 ? [{ path: `tile/0/${place(whole)}.p/${size % 256}`, isLast: true }] : []),
    ...(whole > 0 ? [{ path: `tile/1/000.p/${whole}`, isLast: true }] : []),
  ];
}
