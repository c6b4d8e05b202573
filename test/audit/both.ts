/**
 * Two verifiers on one export: the client's, and test/audit/verify.py, which is written from
 * docs/audit.md alone.
 *
 * Its invariant: an outcome is given only when both come to it.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after } from 'node:test';
import { AuditVerificationError, verifyAuditExport } from '../../client/src/index.ts';

const SCRIPT = join(import.meta.dirname, 'verify.py');

/** Whether there is a Python to compare with. */
export const PYTHON: boolean = (() => {
  try {
    execFileSync('python3', ['-c', 'import sys; sys.exit(sys.version_info < (3, 8))'], {
      stdio: 'ignore',
    });
    return true;
  } catch {
    return false;
  }
})();

/** What is given to both. */
export interface Given {
  readonly publicKeys: readonly string[];
  readonly known?: readonly string[];
  readonly witnesses?: readonly string[];
}

/** What both have found: nothing wrong, or what first. */
export type Outcome =
  | { readonly verified: number; readonly root: string }
  | { readonly problem: string; readonly leafIndex?: number; readonly file?: string };

/** What both verifiers, or the client's alone where there is no Python, say of an export. */
export async function verdict(folder: string, given: Given): Promise<Outcome> {
  const ours = await clientVerdict(folder, given);
  if (PYTHON) assert.deepEqual(await pythonVerdict(folder, given), ours);
  return ours;
}

async function clientVerdict(folder: string, given: Given): Promise<Outcome> {
  try {
    const { entries, rootHash } = await verifyAuditExport(folder, given);
    return { verified: entries, root: rootHash.toString('hex') };
  } catch (error) {
    if (!(error instanceof AuditVerificationError)) throw error;
    const { problem, leafIndex, file } = error;
    return {
      problem,
      ...(leafIndex === undefined ? {} : { leafIndex }),
      ...(file === undefined ? {} : { file }),
    };
  }
}

async function pythonVerdict(
  folder: string,
  { publicKeys, known = [], witnesses = [] }: Given,
): Promise<Outcome> {
  const files = mkdtempSync(join(tmpdir(), 'keyward-verify-'));
  try {
    const put = (name: string) => (text: string, i: number) => {
      const file = join(files, `${name}${i}`);
      writeFileSync(file, text);
      return [`--${name}`, file];
    };
    const args = [
      ...publicKeys.flatMap(put('public-key')),
      ...known.flatMap(put('known')),
      ...witnesses.flatMap((witness) => ['--witness', witness]),
    ];
    const said = JSON.parse(await ask([folder, ...args]));
    return 'problem' in said
      ? said
      : { verified: said.treeSize - said.firstLeafIndex, root: said.root };
  } finally {
    rmSync(files, { recursive: true });
  }
}

let python: { readonly process: ChildProcess; readonly answers: AsyncIterator<string> } | undefined;

/**
 * What the script answers. One process answers all: starting one takes longer than most exports.
 */
async function ask(args: readonly string[]): Promise<string> {
  if (python === undefined) {
    const process = spawn('python3', [SCRIPT], { stdio: ['pipe', 'pipe', 'inherit'] });
    python = { process, answers: createInterface(process.stdout)[Symbol.asyncIterator]() };
  }
  python.process.stdin?.write(`${JSON.stringify(args)}\n`);
  const { value, done } = await python.answers.next();
  if (done) throw new Error('verify.py has ended');
  return value;
}

after(() => {
  python?.process.stdin?.end();
});
