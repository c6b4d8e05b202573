/**
 * Exports of later generations, by both verifiers: with the notes that have begun them, without,
 * and with notes that are not what they claim to be.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { verdict } from './both.ts';
import {
  checkpointOver,
  checkpointText,
  entryLine,
  entryLines,
  type LogKey,
  leafHashOf,
  merkleTreeHash,
  newLogKey,
  ORIGIN,
  signed,
  writeExport,
} from './log.ts';

const HEADING = 'keyward/v1/audit-resume\n';
const origin = (generation: number) => (generation === 1 ? ORIGIN : `${ORIGIN}/${generation}`);
const rootOf = (lines: readonly string[]) => merkleTreeHash(lines.map(leafHashOf));

/** What a note says. */
interface NoteFacts {
  readonly generation?: number;
  readonly left?: string;
  readonly from?: string;
  readonly heading?: string;
  readonly signer?: LogKey;
}

describe('an export of a later generation', () => {
  const key = newLogKey();
  const stranger = newLogKey();
  const first = entryLines(300);
  let folder: string;

  /** The first entry of a generation that goes on from these lines. */
  const begun = (
    lines: readonly string[],
    {
      generation = 2,
      left = checkpointText(400, rootOf(entryLines(400)), origin(generation - 1)),
      from = checkpointText(lines.length, rootOf(lines), origin(generation - 1)),
      heading = HEADING,
      signer = key,
    }: NoteFacts = {},
  ) => {
    const text = `${heading}${origin(generation)}\n${left}${from}`;
    const resumption = signed(text, signer, origin(generation));
    return entryLine(lines.length, { detail: { contradiction: 'words', resumption } });
  };

  /** Writes it, and returns what both say of it. */
  const said = (lines: readonly string[], resumptions: string | undefined, generation = 2) => {
    const checkpoint = checkpointOver(lines, key, origin(generation));
    rmSync(folder, { recursive: true });
    writeExport(folder, { lines, key, checkpoint });
    const file = join(folder, 'export.json');
    const description = { ...JSON.parse(readFileSync(file, 'utf8')), origin: origin(generation) };
    writeFileSync(file, JSON.stringify(description));
    if (resumptions !== undefined) writeFileSync(join(folder, 'resumptions.jsonl'), resumptions);
    return verdict(folder, { publicKeys: [key.publicPem] });
  };

  const second = begun(first);
  const lines = [...first, second, ...entryLines(20)];
  const third = begun(lines, { generation: 3 });
  const longer = [...lines, third, entryLine(7)];

  before(() => {
    folder = mkdtempSync(join(String(process.env['KEYWARD_TEST_DIRECTORY']), 'resumptions-'));
  });

  test('verifies with its note and those that it descends from', async () => {
    assert.ok('verified' in (await said(lines, `${second}\n`)));
    assert.ok('verified' in (await said(longer, `${third}\n${second}\n`, 3)));
    const alone = begun([], { from: checkpointText(0, rootOf([]), ORIGIN) });
    assert.ok('verified' in (await said([alone], `${alone}\n`)));
    assert.ok('verified' in (await said(first, undefined, 1)));
  });

  for (const [what, given] of Object.entries({
    'without a note': [lines, undefined],
    'with an empty file': [lines, ''],
    'with more than it descends from': [lines, `${second}\n${second}\n`],
    'whose line does not end': [lines, second],
    'whose line is no JSON': [lines, 'no JSON\n'],
    'whose entry has no note': [lines, `${entryLine(300)}\n`],
    'whose entry has a text as detail': [lines, `${entryLine(300, { detail: 'x' })}\n`],
    'whose note is in no entry': [[...first, entryLine(300), entryLine(301)], `${second}\n`],
    'whose note is in another entry': [[...first, entryLine(1), second], `${second}\n`],
    'that is not longer than the tree from which it goes on': [first, `${second}\n`],
    'without the notes before': [longer, `${third}\n`, 3],
    'with notes in another order': [longer, `${second}\n${third}\n`, 3],
    'of a first generation': [first, `${second}\n`, 1],
  } satisfies Record<string, [readonly string[], string | undefined, number?]>))
    test(`${what} is refused`, async () => {
      const [entries, resumptions, generation] = given as [string[], string | undefined, number?];
      assert.deepEqual(await said(entries, resumptions, generation), { problem: 'RESUMPTION' });
    });

  const head = (size: number | string, of = ORIGIN, root = rootOf(first).toString('base64')) =>
    `${of}\n${size}\n${root}\n`;
  for (const [what, facts] of Object.entries({
    'is signed by another key': { signer: stranger },
    'has another heading': { heading: 'keyward/v1/audit-restart\n' },
    'begins another generation': { generation: 3 },
    'goes on from another tree': { from: head(300, ORIGIN, rootOf(lines).toString('base64')) },
    'goes on from itself': { from: head(300, origin(2)) },
    'goes on from a later generation': { from: head(300, origin(3)) },
    'goes on from another log': { from: head(300, 'keyward/other') },
    'goes on from no size': { from: head('0300') },
    'leaves behind a later generation': { left: head(400, origin(2)) },
    'leaves behind what is no size': { left: head('99999999999999999999') },
    'leaves behind what is no root': { left: head(400, ORIGIN, 'AAAA') },
    'has a line more': { from: `${head(300)}more\n` },
    'names the first generation otherwise': { from: head(300, `${ORIGIN}/1`) },
  } satisfies Record<string, NoteFacts>))
    test(`whose note ${what} is refused`, async () => {
      const leaf = begun(first, facts as NoteFacts);
      const entries = [...first, leaf, ...entryLines(3)];
      assert.deepEqual(await said(entries, `${leaf}\n`), { problem: 'RESUMPTION' });
    });
});
