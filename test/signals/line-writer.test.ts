/**
 * Lines to a pipe whose reader is slow: what is kept for it, and what is lost.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { LineWriter } from '../../src/signals/line-writer.ts';

/** Between two looks at a pipe, which holds 64 KiB. */
const PAUSE_MS = 5;

test('lines that a slow reader has no room for are lost whole, and counted once it reads', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'line-writer-'));
  const path = join(directory, 'pipe');
  execFileSync('mkfifo', [path]);
  const pipe = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  try {
    const lost: number[] = [];
    const writer = new LineWriter(pipe, (lines) => lost.push(lines));
    const padding = 'x'.repeat(1_000);
    const written = 12_000;
    for (let line = 0; line < written; line++) writer.write(`${line} ${padding}\n`);
    let text = '';
    const buffer = Buffer.alloc(1 << 20);
    let read = 0;
    const lostLines = () => lost.reduce((a, b) => a + b, 0);
    while (read + lostLines() < written) {
      for (;;) {
        try {
          const part = buffer.toString('latin1', 0, readSync(pipe, buffer));
          text += part;
          read += part.split('\n').length - 1;
        } catch {
          break; // Nothing more now.
        }
      }
      await sleep(PAUSE_MS);
    }
    assert.equal(read + lostLines(), written);
    const lines = text.split('\n').slice(0, -1);
    assert.ok(lines.length > 8_000 && lines.length < written, `${lines.length} lines`);
    for (const [index, line] of lines.entries()) assert.equal(line, `${index} ${padding}`);
  } finally {
    closeSync(pipe);
    rmSync(directory, { recursive: true });
  }
});
