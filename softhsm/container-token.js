/**
 * The token of a container that has SoftHSM, made at its first use: `node container-token.js`, by
 * the same settings as the service (KEYWARD_HSM_MODULE, KEYWARD_HSM_TOKEN, KEYWARD_HSM_PIN_FILE,
 * SOFTHSM2_CONF).
 *
 * A token of that label is left as it is, so doing it again changes nothing. The PIN comes from its
 * file and is on no command line; the security officer's is forgotten at once. For trying out:
 * whoever has the volume has the keys. Plain JavaScript, because the image holds no TypeScript.
 * Knows nothing of what the service keeps in a token.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Module, SessionFlag, UserType } from 'graphene-pk11';

const { KEYWARD_HSM_MODULE = '', KEYWARD_HSM_TOKEN = '', KEYWARD_HSM_PIN_FILE = '' } = process.env;
const pin = readFileSync(KEYWARD_HSM_PIN_FILE, 'utf8').replace(/\r?\n$/, '');
const securityOfficerPin = randomBytes(24).toString('base64url');

const module = Module.load(KEYWARD_HSM_MODULE);
module.initialize();
try {
  const slots = module.getSlots(true);
  const all = Array.from({ length: slots.length }, (_, index) => slots.items(index));
  if (all.some((slot) => slot.getToken().label === KEYWARD_HSM_TOKEN)) {
    process.stdout.write(`the token ${KEYWARD_HSM_TOKEN} is there\n`);
  } else {
    // SoftHSM always shows one slot more, with a token that isn't initialised.
    const slot = all.at(-1);
    if (slot === undefined) throw new Error('the module shows no slot');
    // Not graphene's own initToken, which expects the label back and fails with this pkcs11js after
    // having done its work.
    module.lib.C_InitToken(slot.handle, securityOfficerPin, KEYWARD_HSM_TOKEN);
    const session = slot.open(SessionFlag.SERIAL_SESSION | SessionFlag.RW_SESSION);
    session.login(securityOfficerPin, UserType.SO);
    session.initPin(pin);
    session.logout();
    session.close();
    process.stdout.write(`the token ${KEYWARD_HSM_TOKEN} is made\n`);
  }
} finally {
  module.finalize();
}
