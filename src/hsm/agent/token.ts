/**
 * The door to the PKCS#11 token: loads the module, finds the one token that is meant, reads the PIN
 * file, logs in.
 *
 * Invariants: one session, used by one thread, with synchronous calls only (the library's
 * asynchronous ones have encrypted freed memory). A PIN is tried once, and not at all when the
 * token says that tries are running out. Sessions for serving are read-only, so that serving can't
 * create a token object whatever else goes wrong. Knows no object.
 */
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { Module, type Session, SessionFlag, type Slot, type Token, TokenFlag } from 'graphene-pk11';
import type { TokenIdentity, TokenPosture } from '../token-profile.ts';
import { AgentFailure, returnValueOf } from './failure.ts';
import { mayTryDespiteFailure, reportPin, TOKEN } from './given.ts';

const CKF_OS_LOCKING_OK = 2;
const PIN_RETURN_VALUES =
  /^CKR_(PIN_(INCORRECT|INVALID|LEN_RANGE|EXPIRED|LOCKED)|USER_PIN_NOT_INITIALIZED)$/;

export interface OpenToken {
  readonly session: Session;
  readonly slot: Slot;
  readonly label: string;
  readonly serialNumber: string;
  /** The module as it describes itself, for operators, in one line. */
  readonly module: string;
  /** What the library and the token say of themselves. */
  readonly description: Omit<TokenPosture, 'profile' | 'objects' | 'unrecorded'>;
}

interface OpenOptions {
  /** A read-write session, for an operator's command that creates token objects. */
  readonly write?: boolean;
  /** Try the PIN although a try has failed before: somebody has looked at it meanwhile. */
  readonly despiteFailedTry?: boolean;
}

/**
 * Opens the token. Throws `refused` for what an operator has to mend, `pin-rejected` after a try
 * and `pin-tries-low` without one, or what PKCS#11 reports.
 */
export function openToken(options: OpenOptions = {}): OpenToken {
  const module = loadModule();
  const slot = chooseSlot(module, TOKEN.token);
  const token = slot.getToken();
  checkPinTries(token.flags, mayTryDespiteFailure(options.despiteFailedTry ?? false));
  const session = slot.open(
    options.write
      ? SessionFlag.SERIAL_SESSION | SessionFlag.RW_SESSION
      : SessionFlag.SERIAL_SESSION,
  );
  logIn(session, TOKEN.pinFile);
  const description = describe(module, token);
  return {
    session,
    slot,
    label: description.label,
    serialNumber: description.serialNumber,
    module: `${description.module.description} ${description.module.version} (${description.module.manufacturer})`,
    description,
  };
}

/** Which token this agent opens, without logging in. Throws as {@link openToken} does. */
export function identifyToken(): TokenIdentity {
  const { label, serialNumber } = chooseSlot(loadModule(), TOKEN.token).getToken();
  return { label, serialNumber };
}

function describe(module: Module, token: Token): OpenToken['description'] {
  const version = ({ major, minor }: { readonly major: number; readonly minor: number }) =>
    `${major}.${minor}`;
  return {
    module: {
      description: module.libraryDescription,
      version: version(module.libraryVersion),
      manufacturer: module.manufacturerID,
    },
    label: token.label,
    serialNumber: token.serialNumber,
    manufacturer: token.manufacturerID,
    model: token.model,
    firmwareVersion: version(token.firmwareVersion),
    hardwareVersion: version(token.hardwareVersion),
  };
}

function loadModule(): Module {
  let module: Module;
  try {
    module = Module.load(TOKEN.module);
  } catch (cause) {
    throw new AgentFailure(
      'refused',
      `cannot load ${TOKEN.module}: it is not a loadable PKCS#11 module (${(cause as Error).message})`,
      { cause },
    );
  }
  module.initialize({
    flags: CKF_OS_LOCKING_OK,
    ...(TOKEN.moduleParameters ? { libraryParameters: TOKEN.moduleParameters } : {}),
  });
  return module;
}

function chooseSlot(module: Module, selector: string): Slot {
  const matches = tokenMatcher(selector);
  const slots = module.getSlots(true);
  const all = Array.from({ length: slots.length }, (_, index) => slots.items(index));
  const chosen = all.filter((slot) => {
    const { label, serialNumber, manufacturerID, model } = slot.getToken();
    return matches({ token: label, serial: serialNumber, manufacturer: manufacturerID, model });
  });
  const [slot] = chosen;
  // Nothing there at all is more likely a device that is away than a wrong setting; or SoftHSM's
  // token, whose file another process that logs in is writing anew. SoftHSM shows one that isn't
  // initialized, always.
  if (
    slot === undefined &&
    !all.some((each) => each.getToken().flags & TokenFlag.TOKEN_INITIALIZED)
  )
    throw new AgentFailure(
      'token',
      `cannot find the token ${selector}: no initialized token is present`,
    );
  if (slot === undefined || chosen.length > 1) {
    const present = all.map((each) => JSON.stringify(each.getToken().label)).join(', ');
    throw new AgentFailure(
      'refused',
      `cannot choose the token ${selector}: ${chosen.length === 0 ? 'no token matches' : 'more than one token matches'}; present: ${present}`,
    );
  }
  return slot;
}

type TokenFacts = Readonly<Record<'token' | 'serial' | 'manufacturer' | 'model', string>>;

/** A label, or an RFC 7512 URI of token attributes. */
function tokenMatcher(selector: string): (token: TokenFacts) => boolean {
  if (!selector.startsWith('pkcs11:')) return (token) => token.token === selector;
  const [path = ''] = selector.slice('pkcs11:'.length).split('?');
  const wanted = path.split(';').map((part) => {
    const [name = '', value = ''] = part.split('=', 2);
    return [name as keyof TokenFacts, decodeURIComponent(value)] as const;
  });
  return (token) => wanted.every(([name, value]) => token[name] === value);
}

function checkPinTries(flags: number, despiteFailedTry: boolean): void {
  const refuse = (message: string) => {
    reportPin('doubted');
    throw new AgentFailure('pin-tries-low', message);
  };
  if (flags & TokenFlag.USER_PIN_LOCKED)
    refuse('cannot log in to the token: its user PIN is locked');
  if (flags & TokenFlag.USER_PIN_FINAL_TRY) {
    refuse(
      'cannot log in to the token: one try is left for its user PIN; log in with the token’s own tool',
    );
  }
  if (flags & TokenFlag.USER_PIN_COUNT_LOW && !despiteFailedTry) {
    refuse(
      'cannot log in to the token: a wrong user PIN was tried before; correct the PIN file, then run `keyward-server token check`',
    );
  }
}

function logIn(session: Session, pinFile: string): void {
  const pin = readPin(pinFile);
  try {
    session.login(pin);
    reportPin('accepted');
  } catch (error) {
    const returnValue = returnValueOf(error) ?? '';
    if (returnValue === 'CKR_USER_ALREADY_LOGGED_IN') return;
    if (!PIN_RETURN_VALUES.test(returnValue)) throw error;
    reportPin('rejected');
    throw new AgentFailure(
      'pin-rejected',
      `cannot log in to the token: it does not accept the PIN in ${pinFile} (${returnValue})`,
    );
  }
}

/** The PIN, without a trailing line end. Refuses a file that others may read. */
function readPin(pinFile: string): string {
  let descriptor: number;
  try {
    descriptor = openSync(pinFile, 'r');
  } catch (error) {
    throw new AgentFailure('refused', `cannot read the PIN file: ${(error as Error).message}`);
  }
  try {
    if (fstatSync(descriptor).mode & 0o077) {
      throw new AgentFailure(
        'refused',
        `cannot use the PIN file ${pinFile}: others can read it; chmod 600 it`,
      );
    }
    return readFileSync(descriptor, 'utf8').replace(/\r?\n$/, '');
  } finally {
    closeSync(descriptor);
  }
}
