/**
 * Runs `tamper.ts` on a token. Knows how the program is called, and no service.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { SoftHsmToken } from '../../softhsm/token.ts';
import type { Change } from './tamper.ts';

/** Does to a token's objects what somebody with the PIN can do. */
export async function tamperWith(token: SoftHsmToken, change: Change): Promise<void> {
  const { modulePath, label, pinFile, confFile } = token;
  const args = [
    join(import.meta.dirname, 'tamper.ts'),
    modulePath,
    label,
    pinFile,
    JSON.stringify(change),
  ];
  const env = { PATH: process.env['PATH'], SOFTHSM2_CONF: confFile };
  await promisify(execFile)(process.execPath, args, { env });
}
