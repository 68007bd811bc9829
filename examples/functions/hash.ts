// A function of lang deno: says the length and the SHA-256 of each line.
//
//     slimq fn deploy hash hash.ts
//     echo hello | slimq add hash

export async function handler(event: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", event));
  return `${event.length} ${digest.toHex()}`;
}
