/**
 * What Node has compiled, kept for a run of the tests: most of what a short process costs is its
 * start, and with this it costs half.
 *
 * `test/support/global-setup.ts` says where; processes that get no whole environment are told here.
 */
import { type SoftHsmToken, tokenVariables } from '../../softhsm/token.ts';

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
