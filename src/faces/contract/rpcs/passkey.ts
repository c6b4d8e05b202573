/**
 * PasskeyService as messages.
 */
import { z } from 'zod';
import { PASSKEY_ALGORITHMS, type PasskeyRecord } from '../../../hsm/approval-records.ts';
import { formatPasskeyName, MAX_CREDENTIAL_ID_BYTES } from '../../../names.ts';
import { passkeyOperations } from '../../../operations/passkey.ts';
import * as accessField from '../access-fields.ts';
import * as field from '../fields.ts';
import type { Passkey } from '../generated/keyward/v1/Passkey.ts';
import type { PasskeyServiceHandlers } from '../generated/keyward/v1/PasskeyService.ts';
import { passkeyAssertion } from '../passkey-fields.ts';
import { nothing, type RpcsOf, rpc } from '../rpc.ts';
import { optionalTime, timestamp } from '../times.ts';

/** Authenticators make them of at least 16 bytes (WebAuthn Level 3, section 4). */
const MIN_CREDENTIAL_ID_BYTES = 16;
const MAX_ATTESTATION_BYTES = 32 * 1_024;
const DISPLAY_NAME_CHARACTERS = 64;

const displayName = z
  .string()
  .refine(
    (text) => [...text].length <= DISPLAY_NAME_CHARACTERS,
    `must have at most ${DISPLAY_NAME_CHARACTERS} characters`,
  )
  .refine(
    (text) => !/[\ufffd\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u.test(text),
    'must not have control characters or invalid UTF-8',
  );

export const passkeyService = {
  BeginPasskeyRegistration: rpc(passkeyOperations.BeginPasskeyRegistration, {
    request: z.object({}),
    message: ({ creationOptions, expiresAt, signOffUrl }) => ({
      creationOptionsJson: creationOptions,
      expireTime: timestamp(expiresAt),
      signOffUrl,
    }),
  }),
  RegisterPasskey: rpc(passkeyOperations.RegisterPasskey, {
    request: z
      .object({
        parent: field.tenantName,
        credentialId: field.bytesOf(MIN_CREDENTIAL_ID_BYTES, MAX_CREDENTIAL_ID_BYTES),
        clientDataJson: field.bytesOf(1, field.MAX_CLIENT_DATA_BYTES),
        attestationObject: field.bytesOf(1, MAX_ATTESTATION_BYTES),
        displayName,
        assertion: passkeyAssertion.nullish(),
        validateOnly: z.boolean(),
        requestId: field.requestId,
      })
      .transform(({ assertion, ...rest }) => ({ ...rest, assertion: assertion ?? undefined })),
    message: passkeyMessage,
  }),
  GetPasskey: rpc(passkeyOperations.GetPasskey, {
    request: z
      .object({ name: field.passkeyName })
      .transform(({ name: credentialId }) => ({ credentialId })),
    message: passkeyMessage,
  }),
  ListPasskeys: rpc(passkeyOperations.ListPasskeys, {
    request: z.object({
      principal: z.union([z.literal(''), z.literal('-'), accessField.principal]),
      ...field.pageOnly,
    }),
    message: ({ items, nextPageToken }) => ({ passkeys: items.map(passkeyMessage), nextPageToken }),
  }),
  DeletePasskey: rpc(passkeyOperations.DeletePasskey, {
    request: z
      .object({ name: field.passkeyName, requestId: field.requestId })
      .transform(({ name: credentialId, requestId }) => ({ credentialId, requestId })),
    message: nothing,
  }),
} satisfies RpcsOf<PasskeyServiceHandlers>;

function passkeyMessage(passkey: PasskeyRecord): Passkey {
  const { principal, displayName, publicKey, attestation, aaguid, relyingPartyId } = passkey;
  return {
    name: formatPasskeyName(passkey),
    principal,
    displayName,
    publicKey,
    algorithm: nameOfAlgorithm(passkey.algorithm),
    deviceBound: !passkey.isBackupEligible,
    attestation,
    aaguid,
    relyingPartyId,
    createTime: timestamp(passkey.createdAt),
    lastUseTime: optionalTime(passkey.lastUsedAt ?? null),
  };
}

function nameOfAlgorithm(number: number): string {
  const known = Object.entries(PASSKEY_ALGORITHMS).find(([, each]) => each === number);
  return known?.[0] ?? `${number}`;
}
