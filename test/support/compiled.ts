/**
 * What makes starts cheap, of which a run of the tests has thousands: programs in one piece
 * (`bundle.ts`), and what Node has compiled, kept for the run.
 *
 * `global-setup.ts` says where both are; processes that get no whole environment are told here.
 */
import { join } from 'node:path';
import { type SoftHsmToken, tokenVariables } from '../../softhsm/token.ts';

const ROOT = join(import.meta.dirname, '..', '..');

/** The programs that are bundled, by their sources, and the names of their bundles. */
export const PROGRAMS = { 'src/main.ts': 'main', 'cli/src/main.ts': 'keyward' } as const;

/** Returns what to start for a source: the bundle, where the run has one. */
export function programFrom(source: keyof typeof PROGRAMS): string {
  const folder = process.env['KEYWARD_TEST_PROGRAMS'];
  return folder === undefined ? join(ROOT, source) : join(folder, `${PROGRAMS[source]}.js`);
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
