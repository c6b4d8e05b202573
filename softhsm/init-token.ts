/**
 * Initialises a SoftHSM token: a program of its own, run by `token.ts` with the library, the label
 * and the PIN file.
 *
 * The PIN is read from its file here, so it is on no command line and in no environment. The
 * security officer's PIN is forgotten at once: a development token is thrown away rather than
 * repaired.
 */
import { readFileSync } from 'node:fs';
import { Module, SessionFlag, UserType } from 'graphene-pk11';
import { newSecret } from '../dev/files.ts';

const [library = '', label = '', pinFile = ''] = process.argv.slice(2);
const pin = readFileSync(pinFile, 'utf8').trim();
const securityOfficerPin = newSecret();

const module = Module.load(library);
module.initialize();
try {
  const slot = module.getSlots(0);
  // Not graphene's own initToken, which expects the label back and fails with this pkcs11js after
  // having done its work.
  module.lib.C_InitToken(slot.handle, securityOfficerPin, label);
  const session = slot.open(SessionFlag.SERIAL_SESSION | SessionFlag.RW_SESSION);
  session.login(securityOfficerPin, UserType.SO);
  session.initPin(pin);
  session.logout();
  session.close();
} finally {
  module.finalize();
}
