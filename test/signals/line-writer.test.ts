/**
 * Lines to a pipe whose reader is slow: what is kept for it, and what is lost.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { LineWriter } from '../../src/signals/line-writer.ts';
import { eventually } from '../support/kit.ts';

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
    await eventually(() => {
      for (;;) {
        try {
          text += buffer.toString('latin1', 0, readSync(pipe, buffer));
        } catch {
          break; // Nothing more now.
        }
      }
      const lines = text.split('\n').slice(0, -1);
      assert.equal(lines.length + lost.reduce((a, b) => a + b, 0), written);
    });
    const lines = text.split('\n').slice(0, -1);
    assert.ok(lines.length > 8_000 && lines.length < written, `${lines.length} lines`);
    for (const [index, line] of lines.entries()) assert.equal(line, `${index} ${padding}`);
  } finally {
    closeSync(pipe);
    rmSync(directory, { recursive: true });
  }
});
