/**
 * Registers passkeys as a kind of record that is sealed again when the seal key is replaced.
 *
 * - It knows where passkeys are stored; the keyring decides how and when they are sealed again.
 */
import { RECORD } from '../hsm/record-seal.ts';
import type { SealKeyId } from '../ids.ts';
import { formatPasskeyName } from '../names.ts';
import {
  findFormerPasskeyKeys,
  type PasskeyRow,
  readStalePasskeys,
  rewritePasskeySeals,
} from '../store/approvals/passkeys.ts';
import type { Query } from '../store/core/transaction.ts';

/** Describes passkeys as a kind of record for `keyring/seals/reseal.ts`. */
export const PASSKEYS = {
  kind: RECORD.passkey,
  findFormer: findFormerPasskeyKeys,
  readStale: async (query: Query, former: SealKeyId, after: PasskeyRow | undefined, size: number) =>
    (await readStalePasskeys(query, former, after?.credentialId, size)).map(
      ({ row, sealKeyId }) => ({
        row,
        resource: formatPasskeyName(row),
        content: row.content,
        seal: row.seal,
        sealKeyId,
      }),
    ),
  write: rewritePasskeySeals,
} as const;
