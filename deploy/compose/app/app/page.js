// Rendered again at most every ten seconds; the gateway stores it for that long.
export const revalidate = 10;

export default function Page() {
  return <p>Rendered at {new Date().toISOString()}.</p>;
}
