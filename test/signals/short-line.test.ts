/**
 * Lines of several processes on one pipe: none is longer than the system writes in one piece.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PIECE_BYTES, shortLine } from '../../src/signals/short-line.ts';

const LINE = { level: 'fatal', time: '2026-01-01T00:00:00.000Z', process: 'server 1' };
const lineOf = (fields: object) => `${JSON.stringify({ ...LINE, ...fields })}\n`;

test('a line that fits is not touched', () => {
  const line = lineOf({ msg: 'x'.repeat(3_000) });
  assert.equal(shortLine(line), line);
});

test('the longest texts of a longer one are cut, in bytes, and the line says so', () => {
  const line = lineOf({ alert: 'process-failed', stack: 'é\n'.repeat(4_000), msg: 'the end' });
  const short = shortLine(line);
  assert.ok(Buffer.byteLength(short) < PIECE_BYTES);
  assert.ok(short.endsWith('\n'));
  const { stack, ...rest } = JSON.parse(short) as { stack: string };
  assert.deepEqual(rest, { ...LINE, alert: 'process-failed', msg: 'the end', isCut: true });
  assert.ok(stack.startsWith('é\né\n') && stack.endsWith('…'));
});

test('of one with very many members there is left what names it', () => {
  const many = Object.fromEntries(
    Array.from({ length: 2_000 }, (_, index) => [`f${index}`, index]),
  );
  const short = shortLine(lineOf({ ...many, msg: 'the end' }));
  assert.deepEqual(JSON.parse(short), { ...LINE, isCut: true, msg: 'the end' });
});
