/**
 * Turns settings into what starts agents: as children of this process, or by a host.
 *
 * Knows no database, since a host of agents has none.
 */
import {
  type Configuration,
  ConfigurationError,
  type NEXT_TOKEN_SETTINGS,
  type ServerConfiguration,
  type TOKEN_SETTINGS,
} from '../config.ts';
import type { TokenSettings } from '../hsm/agent-given.ts';
import { type AgentStarter, childAgents } from '../hsm/agent-starter.ts';
import { hostedAgents } from '../hsm/hosted-agents.ts';

/** Returns how to open the token. */
export function tokenSettings(
  settings: Configuration<(typeof TOKEN_SETTINGS)[number]>,
): TokenSettings {
  const parameters = settings.KEYWARD_HSM_MODULE_PARAMETERS;
  return {
    module: settings.KEYWARD_HSM_MODULE,
    ...(parameters === undefined ? {} : { moduleParameters: parameters }),
    token: settings.KEYWARD_HSM_TOKEN,
    pinFile: settings.KEYWARD_HSM_PIN_FILE,
    waivers: settings.KEYWARD_HSM_WAIVERS,
  };
}

/** Returns what starts agents on the configured token, as children of this process. */
export function openingAgents(
  settings: Configuration<(typeof TOKEN_SETTINGS)[number]>,
): AgentStarter {
  return childAgents(tokenSettings(settings), agentEnvironment(settings));
}

/** Returns what starts agents on the next token, as {@link nextTokenSettings} has it. */
export function nextAgents(
  settings: Configuration<
    (typeof NEXT_TOKEN_SETTINGS)[number] | 'KEYWARD_HSM_ENVIRONMENT' | 'KEYWARD_AGENT_RULE'
  >,
): AgentStarter | undefined {
  const next = nextTokenSettings(settings);
  return next && childAgents(next, agentEnvironment(settings));
}

/**
 * Returns what starts the agents that serve, and those on the next token: this process, or a host.
 * Throws as {@link nextTokenSettings} does.
 */
export function servingAgents(configuration: ServerConfiguration): {
  readonly current: AgentStarter;
  readonly next: AgentStarter | undefined;
} {
  const { KEYWARD_NEXT_AGENT_HOST: nextHost } = configuration;
  const hostedNext = nextHost === undefined ? undefined : hostedAgents(nextHost);
  if (configuration.KEYWARD_AGENT_HOST !== undefined)
    return { current: hostedAgents(configuration.KEYWARD_AGENT_HOST), next: hostedNext };
  const next =
    configuration.KEYWARD_NEXT_AGENT_HOST === undefined ? nextAgents(configuration) : hostedNext;
  return { current: openingAgents(configuration), next };
}

/**
 * Returns how to open the next token; undefined if none is set. Throws {@link ConfigurationError}
 * if only some settings are.
 */
export function nextTokenSettings(
  settings: Configuration<(typeof NEXT_TOKEN_SETTINGS)[number]>,
): TokenSettings | undefined {
  const parameters = settings.KEYWARD_NEXT_HSM_MODULE_PARAMETERS;
  const module = settings.KEYWARD_NEXT_HSM_MODULE;
  const token = settings.KEYWARD_NEXT_HSM_TOKEN;
  const pinFile = settings.KEYWARD_NEXT_HSM_PIN_FILE;
  if (module === undefined && token === undefined && pinFile === undefined) return undefined;
  if (module === undefined || token === undefined || pinFile === undefined)
    throw new ConfigurationError(
      'cannot use the next token: set all of KEYWARD_NEXT_HSM_MODULE, KEYWARD_NEXT_HSM_TOKEN and KEYWARD_NEXT_HSM_PIN_FILE',
    );
  return {
    module,
    ...(parameters === undefined ? {} : { moduleParameters: parameters }),
    token,
    pinFile,
    waivers: settings.KEYWARD_NEXT_HSM_WAIVERS,
  };
}

/**
 * Returns the agents' whole environment: only the variables that the operator names, and the file
 * of their rule.
 */
export function agentEnvironment(
  settings: Configuration<'KEYWARD_HSM_ENVIRONMENT' | 'KEYWARD_AGENT_RULE'>,
): Record<string, string> {
  const { KEYWARD_AGENT_RULE: rule, KEYWARD_HSM_ENVIRONMENT: names } = settings;
  const named: (readonly [string, string | undefined])[] = [
    ...names.map((name) => [name, process.env[name]] as const),
    ['KEYWARD_AGENT_RULE', rule],
  ];
  return Object.fromEntries(
    named.filter((entry): entry is readonly [string, string] => entry[1] !== undefined),
  );
}
