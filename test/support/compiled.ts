/**
 * What makes starts cheap, of which a run of the tests has thousands: programs in one piece
 * (`bundle.ts`), and what Node has compiled, kept for the run.
 *
 * `global-setup.ts` says where both are; processes that get no whole environment are told here.
 */
import { chmodSync, cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { type SoftHsmToken, tokenVariables } from '../../softhsm/token.ts';

const ROOT = join(import.meta.dirname, '..', '..');

/** The programs that are bundled, by their sources, and the names of their bundles. */
export const PROGRAMS = { 'src/main.ts': 'main', 'cli/src/main.ts': 'keyward' } as const;

/** Returns what to start for a source: the bundle, where the run has one. */
export function programFrom(source: keyof typeof PROGRAMS): string {
  const folder = process.env['KEYWARD_TEST_PROGRAMS'];
  return folder === undefined ? join(ROOT, source) : join(folder, `${PROGRAMS[source]}.js`);
}

let readable: string | undefined;

/** Returns the server as other users can start it, who have no way into a run's folder. */
export function readableServer(): string {
  const bundled = programFrom('src/main.ts');
  if (bundled.endsWith('.ts')) return bundled;
  if (readable === undefined) {
    const folder = mkdtempSync(join(tmpdir(), 'keyward-programs-'));
    process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
    cpSync(dirname(bundled), folder, { recursive: true });
    // Its modules are ES modules, which its place does not tell.
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }\n');
    chmodSync(folder, 0o755);
    readable = join(folder, basename(bundled));
  }
  return readable;
}

const directory = process.env['NODE_COMPILE_CACHE'];

/** The variable by which a process finds what others have compiled, and keeps what it compiles. */
export const COMPILED: Readonly<Record<string, string>> =
  directory === undefined ? {} : { NODE_COMPILE_CACHE: directory };

/** The settings by which a server uses a token, its agents finding what is compiled. */
export function testTokenVariables(token: SoftHsmToken): Record<string, string> {
  const settings = tokenVariables(token);
  const names = [settings['KEYWARD_HSM_ENVIRONMENT'], ...Object.keys(COMPILED)];
  return { ...settings, ...COMPILED, KEYWARD_HSM_ENVIRONMENT: names.join(',') };
}
