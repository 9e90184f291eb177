export const revalidate = 2;

export default function Isr() {
  return (
    <main>
      <h1>Made again every 2 s</h1>
      <p id="made">{`made:${Date.now()}`}</p>
    </main>
  );
}
