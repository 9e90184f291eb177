export default function Page() {
  return <p>feed</p>;
}
