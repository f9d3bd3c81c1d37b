package org.apache.livy.repl;

import io.netty.channel.ChannelHandlerContext;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Base64;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentSkipListMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.apache.livy.rsc.BaseProtocol;
import org.apache.livy.rsc.RSCConf;
import org.apache.livy.rsc.ReplJobResults;
import org.apache.livy.rsc.driver.RSCDriver;
import org.apache.livy.rsc.driver.SparkEntries;
import org.apache.livy.rsc.driver.Statement;
import org.apache.livy.rsc.driver.StatementState;
import org.apache.spark.SparkConf;
import py4j.GatewayServer;

/** Livy's driver with a Python beside it, which executes the cells of a session one after another: livy_shell.py. */
public class ReplDriver extends RSCDriver {
    private final Map<Integer, Statement> statements = new ConcurrentSkipListMap<>();
    private final ExecutorService inOrder = Executors.newSingleThreadExecutor();
    private Process python;
    private PrintStream toPython;
    private BufferedReader fromPython;
    private volatile String state = "starting";

    public ReplDriver(SparkConf conf, RSCConf livyConf) throws Exception {
        super(conf, livyConf);
    }

    @Override
    protected SparkEntries initializeSparkEntries() throws Exception {
        SparkEntries entries = super.initializeSparkEntries();
        String secret = UUID.randomUUID().toString();
        // As Livy's own: one that serves each Python thread in a Java thread of its choice.
        GatewayServer gateway = new GatewayServer.GatewayServerBuilder(entries.sc()).javaPort(0)
            .javaAddress(InetAddress.getLoopbackAddress()).authToken(secret).build();
        gateway.start();
        Path shell = Files.createTempFile("livy_shell", ".py");
        Files.copy(ReplDriver.class.getResourceAsStream("/livy_shell.py"), shell, StandardCopyOption.REPLACE_EXISTING);
        ProcessBuilder builder = new ProcessBuilder(conf.get("spark.pyspark.python"), shell.toString());
        Map<String, String> environment = builder.environment();
        environment.put("PYSPARK_PYTHON", conf.get("spark.pyspark.python"));
        environment.put("PYSPARK_GATEWAY_PORT", String.valueOf(gateway.getListeningPort()));
        environment.put("PYSPARK_GATEWAY_SECRET", secret);
        python = builder.redirectError(ProcessBuilder.Redirect.INHERIT).start();
        toPython = new PrintStream(python.getOutputStream(), true, "UTF-8");
        fromPython = new BufferedReader(new InputStreamReader(python.getInputStream(), StandardCharsets.UTF_8));
        say("idle");
        return entries;
    }

    @Override
    protected void shutdownContext() {
        if (python != null) {
            python.destroy();
        }
        inOrder.shutdownNow();
        super.shutdownContext();
    }

    @Override
    protected void onClientAuthenticated(org.apache.livy.rsc.rpc.Rpc client) {
        client.call(new BaseProtocol.ReplState(state));
    }

    private void say(String state) {
        this.state = state;
        broadcast(new BaseProtocol.ReplState(state));
    }

    public Integer handle(ChannelHandlerContext context, BaseProtocol.ReplJobRequest request) {
        Statement statement = new Statement(statements.size(), request.code, StatementState.Waiting, null);
        statements.put(statement.id, statement);
        inOrder.submit(() -> execute(statement));
        return statement.id;
    }

    private void execute(Statement statement) {
        say("busy");
        statement.started = System.currentTimeMillis();
        statement.compareAndTransit(StatementState.Waiting, StatementState.Running);
        String output = null;
        try {
            toPython.println(Base64.getEncoder().encodeToString(statement.code.getBytes(StandardCharsets.UTF_8)));
            output = fromPython.readLine();
        } catch (java.io.IOException error) {
            error.printStackTrace();
        }
        boolean lives = output != null;
        statement.output = lives ? output : "{\"status\": \"error\", \"execution_count\": " + statement.id
            + ", \"ename\": \"Error\", \"evalue\": \"python has died\", \"traceback\": []}";
        statement.completed = System.currentTimeMillis();
        statement.updateProgress(1.0);
        statement.compareAndTransit(StatementState.Running, StatementState.Available);
        say(lives ? "idle" : "error");
    }

    public ReplJobResults handle(ChannelHandlerContext context, BaseProtocol.GetReplJobResults request) {
        return new ReplJobResults(statements.values().stream()
            .filter(one -> request.allResults || (one.id >= request.from && one.id < request.from + request.size))
            .toArray(Statement[]::new));
    }
}
