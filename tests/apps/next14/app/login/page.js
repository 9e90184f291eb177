export default function Login() {
  return <h1>please sign in</h1>;
}
