/**
 * What an assertion of a passkey may be in requests: its form alone, since agents verify it.
 */
import { z } from 'zod';
import { MAX_CREDENTIAL_ID_BYTES } from '../../names.ts';
import { bytesOf, MAX_CLIENT_DATA_BYTES } from './fields.ts';

/** Extensions may follow its 37 bytes. */
const MAX_AUTHENTICATOR_DATA_BYTES = 4_096;
/** An RSA key of 8,192 bits has one of 1,024 bytes. */
const MAX_SIGNATURE_BYTES = 1_024;

/** An assertion of a passkey. */
export const passkeyAssertion = z.object(
  {
    credentialId: bytesOf(1, MAX_CREDENTIAL_ID_BYTES),
    clientDataJson: bytesOf(1, MAX_CLIENT_DATA_BYTES),
    authenticatorData: bytesOf(1, MAX_AUTHENTICATOR_DATA_BYTES),
    signature: bytesOf(1, MAX_SIGNATURE_BYTES),
  },
  'must be given',
);
