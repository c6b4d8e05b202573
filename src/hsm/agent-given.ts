/**
 * What an agent is given by whoever starts it, in its environment: the token that it opens, and,
 * where a host of agents has started it, what it may be asked for.
 *
 * Nothing of this travels in requests: whoever may ask an agent for operations cannot have it load
 * another library or read another file.
 */

/** What an agent needs to open the token. Never the PIN: the agent reads the file itself. */
export interface TokenSettings {
  /** Path of the PKCS#11 module. */
  readonly module: string;
  /** Initialisation string for modules that want one (NSS), else absent. */
  readonly moduleParameters?: string;
  /** The token's label, or an RFC 7512 URI that matches one token. */
  readonly token: string;
  readonly pinFile: string;
  /** Attributes that this token can't enforce and the operator accepts to go without. */
  readonly waivers: readonly string[];
}

/**
 * What an agent is for: `serving` serves, and changes no token object; `command` does one thing and
 * ends, and is not killed before it has.
 */
export const AGENT_USES = ['serving', 'command'] as const;
export type AgentUse = (typeof AGENT_USES)[number];

/** What an agent is given. */
export interface AgentGiven {
  readonly token: TokenSettings;
  /** Absent for a child of the process that it serves, which may ask it for everything. */
  readonly hosted?: {
    readonly use: AgentUse;
    /** As `ServeSettings` has it, in the place of what a request says. */
    readonly despiteFailedTry: boolean;
  };
}

/** What a hosted agent reports of a PIN, a line each on {@link REPORT_DESCRIPTOR}. */
export type PinReport = 'accepted' | 'rejected' | 'doubted';
export const REPORT_DESCRIPTOR = 4;

const VARIABLE = 'KEYWARD_AGENT_GIVEN';

/** An agent's whole environment: what it is given, and the variables that the operator passes. */
export function agentVariables(
  given: AgentGiven,
  passed: Readonly<Record<string, string>>,
): Record<string, string> {
  return { ...passed, [VARIABLE]: JSON.stringify(given) };
}

/** Reads what {@link agentVariables} wrote. Throws Error where there is nothing. */
export function readGiven(environment: NodeJS.ProcessEnv): AgentGiven {
  const text = environment[VARIABLE];
  if (text === undefined) throw new Error(`an agent without ${VARIABLE}`);
  return JSON.parse(text) as AgentGiven;
}
